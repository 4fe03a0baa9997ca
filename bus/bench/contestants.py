"""What both engines have in common for a measurement, and what is done to either in the same way."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its own documented name

from bus.bench.reference import Side, Values
from bus.bench.workload import Event

LANES = 4
PATIENCE_SECONDS = 60.0
Encode = Callable[[Event], tuple[str, bytes, bytes]]
"""An event as (topic, key, value)."""
Decode = Callable[[str, bytes], tuple[int, str | None, Values, int | None]]
"""(topic, value) -> (ts_ms, status, comparable values, sequence number in its lane or None)."""
Process = subprocess.Popen[bytes]


class Contestant(Protocol):
    """One engine on the bench's broker. `inputs` and `outputs` are its topics, one input a domain."""

    name: str
    inputs: list[str]
    outputs: list[str]
    side: Side

    @property
    def group(self) -> str:
        """The consumer group whose committed offsets tell how far it has come."""
        ...

    def declare(self) -> None:
        """Its topics and schemas. Doing it again changes nothing."""
        ...

    def forget(self) -> None:
        """Inputs and register are emptied."""
        ...

    def fill_register(self) -> dict[str, float]:
        """Everybody into the register; what is worth telling about it."""
        ...

    def encoder(self) -> Encode: ...

    def decoder(self) -> Decode: ...

    def reset(self, at_end: bool) -> None:
        """Outputs empty, and the inputs are to be read from their beginning or their end."""
        ...

    def start(self, steady: bool) -> list[Process]:
        """The engine as its users run it."""
        ...

    def restore_seconds(self) -> float | None:
        """From the start of the process until it has the register, as it says itself."""
        ...


def stop(processes: Iterable[Process]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def delete_topics(config: dict[str, Any], names: Iterable[str]) -> None:
    """Those that are there; waits until the brokers have forgotten them, which may be after the answer.

    Raises RuntimeError, KafkaException.
    """
    admin, wanted = AdminClient(config), set(names)
    there = list(wanted & admin.list_topics(timeout=10).topics.keys())
    for done in admin.delete_topics(there, operation_timeout=30).values() if there else ():
        done.result(30)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := wanted & admin.list_topics(timeout=10).topics.keys():
        if time.monotonic() > deadline:
            raise RuntimeError(f"topics could not be deleted: {sorted(left)}")
        time.sleep(0.1)


def create_topics(config: dict[str, Any], names: Iterable[str], settings: dict[str, str], lanes: int = LANES) -> None:
    """What is missing; waits until the brokers know them. Raises RuntimeError."""
    admin = AdminClient(config)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while missing := [name for name in names if name not in admin.list_topics(timeout=10).topics]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"topics could not be created: {missing}")
        for done in admin.create_topics([NewTopic(n, lanes, 1, config=settings) for n in missing]).values():
            try:
                done.result(30)
            except KafkaException:  # there already, or still being deleted: looked at again
                time.sleep(0.1)


def delete_group(config: dict[str, Any], group: str) -> None:
    """Waits for members that left without saying so. Raises RuntimeError."""
    admin = AdminClient(config)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            admin.delete_consumer_groups([group])[group].result(30)
            return
        except KafkaException as error:
            if error.args[0].name() == "GROUP_ID_NOT_FOUND":
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"group {group} cannot be deleted: {error.args[0].str()}") from None
            time.sleep(0.5)
