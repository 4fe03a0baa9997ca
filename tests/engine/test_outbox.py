"""Batches as they go over the wire hold what was produced, in order, numbered without gap."""

from __future__ import annotations

from typing import Any

from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from bus.engine.outbox import BATCH_BYTES, Outbox, Place, Sealed

PLACES = st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1))
BYTES = st.one_of(st.none(), st.binary(max_size=40), st.integers(1, 3).map(lambda n: bytes(n * BATCH_BYTES // 2)))
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=2)
RECORDS = st.lists(st.tuples(PLACES, BYTES, BYTES, HEADERS), max_size=12)


def read(batch: Sealed) -> tuple[int, int, int, list[tuple[Any, ...]]]:
    """(producer, epoch, first number, records) as a consumer reads them."""
    records = MemoryRecords(bytes(batch.content))
    found = records.next_batch()
    assert found.validate_crc()
    assert found.is_transactional
    listed = [(r.key, r.value, list(r.headers)) for r in found]
    assert records.next_batch() is None
    return found.producer_id, found.producer_epoch, found.base_sequence, listed


@given(st.lists(RECORDS, max_size=3), st.sampled_from([0, (1 << 31) - 3]))
def test_what_goes_out_is_what_was_produced_in_order_and_numbered_without_gap(
    transactions: list[list[tuple[Place, bytes | None, bytes | None, list[tuple[str, bytes]]]]], first: int
) -> None:
    """Over several transactions of one epoch, and where the numbers begin again."""
    sent: list[Sealed] = []
    box = Outbox(7, 3, lambda: 1, sent.append)
    box._next = {(topic, lane): first for topic in "ab" for lane in (0, 1)}
    expected: dict[Place, list[Any]] = {}
    for records in transactions:
        for (topic, lane), key, value, headers in records:
            box.produce(topic, value, key, lane, headers)
            expected.setdefault((topic, lane), []).append((key, value, headers))
        sent += box.seal()
        assert box.seal() == []
    number = dict.fromkeys(expected, first)
    got: dict[Place, list[Any]] = {}
    for batch in sent:
        place = (batch.topic, batch.lane)
        producer, epoch, begin, listed = read(batch)
        assert (producer, epoch, begin) == (7, 3, number[place])
        number[place] = (begin + len(listed)) % (1 << 31)
        got.setdefault(place, []).extend(listed)
    assert got == expected


def test_no_batch_is_longer_than_it_may_be_unless_it_is_one_record() -> None:
    sent: list[Sealed] = []
    box = Outbox(7, 3, lambda: 1, sent.append)
    for n in range(2_000):
        box.produce("a", n.to_bytes(2, "big") * 500, None, 0)
    box.produce("a", bytes(2 * BATCH_BYTES), None, 0)
    sent += box.seal()
    sizes = [sum(len(value) for _, value, _ in read(batch)[3]) for batch in sent]
    assert sizes[-1] == 2 * BATCH_BYTES
    assert all(BATCH_BYTES // 2 < size <= BATCH_BYTES for size in sizes[:-2])
