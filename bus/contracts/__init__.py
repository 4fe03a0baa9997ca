"""What schemas promise: whether one reads what another wrote, and what a change of a dataset does to everybody. No I/O."""
