"""Dead letters: what there is, what became of each, and putting them through the engine again once the cause is mended."""
