"""What the bus does beside what else one would take, and what things cost as they grow. docs/performance.md says how.

The engine beside Kafka Streams, one workload, one broker, in turn, every output checked:
workload.json    the domains, their rows, the register and six agreements; `workload` makes people and events of it
reference        what must come out, worked out in plain Python without the engine
contestants      what both have in common; `ours` and `kafka_streams` (java/) are the two
drain, steady    the measurements; `check` holds what came out against the reference; `run` and `table` are the command

The capture beside Debezium, one table, in turn, every event checked:
wide             the table, its load, and its content built again out of events
captures         what both have in common, and ours; `debezium` is the other
capture          the drains, `capture_latency` the latency, `capture_shown` the table of figures

Growth and restart:
population       a replica of any size, written straight into LMDB
growth           what an event costs, `growth_shown` and `plot` the table and the plots of it
restart          from a process's start to its first output
"""
