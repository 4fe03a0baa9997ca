"""The engine beside Kafka Streams: one workload, one broker, in turn, every output checked. docs/performance.md has the figures.

workload.json    the domains, their rows, the register and six agreements; `workload` makes people and events of it
reference        what must come out, worked out in plain Python without the engine
contestants      what both have in common; `ours` and `kafka_streams` (java/) are the two
drain, steady    the measurements; `check` holds what came out against the reference; `run` and `table` are the command
"""
