"""The HTTP feed: agencies that poll ask for their deliveries, with a cursor of their own, by long poll or server-sent events."""
