"""What a subscriber gets to know and to hold: the catalogue, its interface description, contracts, and a client that works."""
