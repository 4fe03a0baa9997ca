"""Avro as bytes: framing, datasets, derived schemas, walkers and projections. Knows no Kafka."""
