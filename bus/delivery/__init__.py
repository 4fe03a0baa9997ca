"""Deliveries beyond Kafka: pushed to an agency's own address, or asked for over HTTP."""
