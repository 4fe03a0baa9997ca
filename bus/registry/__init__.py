"""Schemas and their ids, kept in the `_schemas` topic in Confluent's record layout."""
