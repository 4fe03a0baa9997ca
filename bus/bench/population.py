"""A register replica of any size, written straight into LMDB: what the register process holds once it has read everybody.

People are made in the order of their keys, by every core, so that each page of the file is written once, and nothing goes
through Kafka. Beside the file a second one of the same size is there for a moment, as with any first fill.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import shutil
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus.avro import dataset, varint
from bus.bench.events import Encoder
from bus.bench.workload import BASE_MS, PIN, Row, Workload
from bus.config import ConfigError
from bus.core.identity import KEY_BYTES, person_key
from bus.engine.person import compile_packer
from bus.engine.replica import ReplicaWriter

BYTES_A_PERSON = 800
"""Disk: twice a record with its key and its share of the pages, on the safe side."""
_CHUNK = 20_000
_NUMBER_BYTES = 4
Packed = list[tuple[bytes, bytes]]
"""(person key, the replica's value)."""


@dataclass(frozen=True, slots=True)
class Order:
    """Whom to make: `people` of `seed`, as the register under `schemas` has them. `identity`: the replica's."""

    home: Path
    schemas: Path
    people: int
    seed: int
    secret: bytes
    schema_id: int
    identity: bytes


def fill(order: Order, say: Callable[[str], None]) -> None:
    """Writes home/replica, whole and ready. Raises ConfigError when there is too little disk, ReplicaError."""
    order.home.mkdir(parents=True, exist_ok=True)
    require_disk(order.home, order.people * BYTES_A_PERSON)
    writer = ReplicaWriter(order.home, order.identity)
    try:
        writer.empty()
        done, told = 0, 0
        for packed in _in_key_order(order):
            writer.apply(dict(packed), {})
            done += len(packed)
            if done - told >= 1_000_000:
                told = done
                say(f"{done:,} of {order.people:,} people in the replica")
        writer.finish_load()
        writer.set_ready(True)
    finally:
        writer.close()


def require_disk(place: Path, wanted: int) -> None:
    """Raises ConfigError when the file system of `place` has fewer bytes left."""
    if (free := shutil.disk_usage(place).free) < wanted:
        raise ConfigError(
            f"{place}: {wanted / 1e9:.1f} GB of disk are needed and {free / 1e9:.1f} are free: free some, or set TMPDIR"
        )


def _in_key_order(order: Order) -> Iterator[Packed]:
    """Everybody, a chunk at a time. Two chunks a core are made ahead, no more."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[Packed]] = deque()
        for numbers in _chunks(numbers_by_key(order)):
            waiting.append(pool.submit(pack, order, numbers))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _chunks(numbers: Iterator[int]) -> Iterator[array[int]]:
    while chunk := array("I", itertools.islice(numbers, _CHUNK)):
        yield chunk


def numbers_by_key(order: Order) -> Iterator[int]:
    """The people's numbers in the order of their keys. Takes 80 bytes of memory a person."""
    workload, secret = Workload(order.people, order.seed), order.secret
    keyed = [
        person_key(secret, workload.pin(number).encode()) + number.to_bytes(_NUMBER_BYTES, "big")
        for number in range(order.people)
    ]
    keyed.sort()
    return (int.from_bytes(one[KEY_BYTES:], "big") for one in keyed)


def pack(order: Order, numbers: array[int]) -> Packed:
    """These people as the replica holds them."""
    make = _maker(order)
    return [make(number) for number in numbers]


@functools.lru_cache(maxsize=1)
def _maker(order: Order) -> Callable[[int], tuple[bytes, bytes]]:
    register = dataset.register_of(dataset.load(order.schemas))
    someone, secret, packer = Workload(order.people, order.seed).someone(), order.secret, compile_packer(register)
    columns = [(name, _WRITERS[_plain(kind)], isinstance(kind, list)) for name, kind in register.fields.items()]

    def encoded(row: Row) -> bytes:
        parts = []
        for name, write, nullable in columns:
            value = row[name]
            if nullable:
                parts.append(_NULL if value is None else _PRESENT + write(value))
            else:
                parts.append(write(value))
        return b"".join(parts)

    first = someone(0)
    event, row = Encoder(register, order.schema_id).encode(0, "r", None, first, BASE_MS), encoded(first)
    head = event[: -len(row)]  # of every event: the replica holds the row alone
    assert event == head + row

    def make(number: int) -> tuple[bytes, bytes]:
        row = someone(number)
        packed = packer(head + encoded(row), number)
        assert packed is not None
        return person_key(secret, row[PIN].encode()), packed

    return make


def _text(value: str) -> bytes:
    written = value.encode()
    return _LENGTHS[len(written)] + written if len(written) < len(_LENGTHS) else varint.encode(len(written)) + written


_LENGTHS = tuple(varint.encode(length) for length in range(64))
_NULL, _PRESENT = b"\0", b"\2"
_WRITERS: dict[str, Callable[[Any], bytes]] = {"string": _text, "int": varint.encode, "long": varint.encode}
"""The register's few types in Avro, at less than half of the cost of a general encoder, against which each process holds them."""


def _plain(kind: Any) -> str:
    kind = kind[1] if isinstance(kind, list) else kind
    return str(kind["type"] if isinstance(kind, dict) else kind)
