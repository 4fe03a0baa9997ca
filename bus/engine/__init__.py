"""Lanes, verification, projection: what becomes of a change event."""
