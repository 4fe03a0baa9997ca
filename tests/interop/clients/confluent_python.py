"""Confluent's Python client against a registry: register, produce, consume, evolve, be refused. The task comes on stdin as JSON.

Run by whichever interpreter has the client's version to try; it knows nothing of the bus. Prints what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

task = json.load(sys.stdin)
topic, subject = task["topic"], task["topic"] + "-value"
context = SerializationContext(topic, MessageField.VALUE)


def kafka(who: str) -> dict[str, Any]:
    user = task[who]
    return {
        "bootstrap.servers": task["bootstrap"],
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": user["name"],
        "sasl.password": user["password"],
    }


def registry(who: str) -> SchemaRegistryClient:
    user = task[who]
    return SchemaRegistryClient({"url": task["url"], "basic.auth.user.info": f"{user['name']}:{user['password']}"})


def produce(schema: Any, value: Any) -> None:
    serializer = AvroSerializer(registry("writer"), json.dumps(schema))
    producer = Producer(kafka("writer"))
    producer.produce(topic, serializer(value, context))
    assert producer.flush(20) == 0


def consume(count: int) -> list[Any]:
    consumer = Consumer(
        kafka("reader") | {"group.id": task["group"], "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    consumer.subscribe([topic])
    decode, deadline = AvroDeserializer(registry("reader")), time.monotonic() + 40
    read: list[Any] = []
    while len(read) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and not message.error():
            read.append(decode(message.value(), context))
    consumer.close()
    return read


def refusal(who: str, schema: Any) -> int:
    try:
        registry(who).register_schema(subject, Schema(json.dumps(schema), "AVRO"))
    except SchemaRegistryError as error:
        return error.http_status_code
    return 200


first, second, third = task["schemas"]
produce(first, {"name": "Nguyễn"})
produce(second, {"name": "Trần", "year": 1990})
client = registry("writer")
print(
    json.dumps(
        {
            "client": confluent_kafka.__version__,
            "read": consume(2),
            "versions": client.get_versions(subject),
            "subjects": registry("reader").get_subjects(),
            "compatible": [client.test_compatibility(subject, Schema(json.dumps(s), "AVRO")) for s in (second, third)],
            "refused": refusal("writer", third),
            "forbidden": refusal("reader", {**third, "name": "Other"}),
        },
        ensure_ascii=False,
    )
)
