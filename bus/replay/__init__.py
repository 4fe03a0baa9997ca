"""Replay: a bounded re-run of recorded events into a sandbox, for developers. Touches no group's offsets."""
