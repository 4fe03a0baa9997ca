"""The account: captured = delivered + withheld + dead-lettered, computed from the topics against the databases."""
