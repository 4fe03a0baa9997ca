"""Captures one agency database: an initial snapshot, then every committed change, in order, once.

process.py runs it. The journey of a row: walsender.py reads it, compiled.py turns it into Avro, events.py wraps it in the
change envelope, sink.py commits it to Kafka together with the progress.py record that says how far capture has come.
"""
