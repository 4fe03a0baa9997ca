"""What the parties of an agreement say of it, signed: the acts, the keys they are held against, and the topic they stand in."""
