"""A consumer's membership in its group, and the request that commits offsets within a transaction as this member.

The broker refuses the offsets of a member that has lost its lanes only if it is told generation and member (KIP-447). aiokafka's
own request has no place for them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from bus.engine.client import HumanNeeded

_MARK = b"CGMDv2:"
_NO_INSTANCE = b"\1"
_API, _VERSION = 28, 3
_NO_LEADER_EPOCH = -1
_TEXT = CompactString("utf-8")


@dataclass(frozen=True, slots=True)
class Membership:
    """As the group's coordinator knows it."""

    group: str
    generation: int
    member: str
    instance: str | None

    @staticmethod
    def of(metadata: bytes) -> Membership:
        """From what `Consumer.consumer_group_metadata` returns: librdkafka's serialized form, which it says may change.

        Raises HumanNeeded when it has.
        """
        try:
            if not metadata.startswith(_MARK):
                raise ValueError
            (generation,) = struct.unpack_from("=i", metadata, len(_MARK))
            group, member, rest = metadata[len(_MARK) + 4 :].split(b"\0", 2)
            if rest == _NO_INSTANCE:
                return Membership(group.decode(), generation, member.decode(), None)
            none, instance, end = rest.split(b"\0")
            if none or end:
                raise ValueError
            return Membership(group.decode(), generation, member.decode(), instance.decode())
        except (ValueError, struct.error):
            raise HumanNeeded(
                "this confluent-kafka writes a member's metadata in another way: install the version in uv.lock"
            ) from None


class _Answer(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY, API_VERSION = _API, _VERSION
    _partition = CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields))
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("errors", CompactArray(("topic", _TEXT), ("partitions", _partition), ("tags", TaggedFields))),
        ("tags", TaggedFields),
    )


class _Form(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION, RESPONSE_TYPE = _API, _VERSION, _Answer
    _offset = CompactArray(
        ("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", _TEXT), ("tags", TaggedFields)
    )
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("group_id", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _TEXT),
        ("group_instance_id", _TEXT),
        ("topics", CompactArray(("topic", _TEXT), ("partitions", _offset), ("tags", TaggedFields))),
        ("tags", TaggedFields),
    )


class TxnOffsetCommit(Request[_Form]):  # type: ignore[misc]  # aiokafka has no types
    """Version 3, the first with a membership and the last before KIP-890's. `offsets`: (topic, lane) -> next offset."""

    API_KEY = _API

    def __init__(
        self, transactional_id: str, producer: tuple[int, int], member: Membership, offsets: Mapping[tuple[str, int], int]
    ) -> None:
        self._transactional_id, self._producer, self._member, self._offsets = transactional_id, producer, member, offsets

    def build(self, request_struct_class: type[_Form]) -> _Form:
        member = self._member
        who = (member.generation, member.member, member.instance)
        return request_struct_class(self._transactional_id, member.group, *self._producer, *who, list(self._topics()), {})

    def _topics(self) -> Iterable[tuple[str, list[tuple[int, int, int, str, dict[int, bytes]]], dict[int, bytes]]]:
        grouped: dict[str, list[tuple[int, int, int, str, dict[int, bytes]]]] = {}
        for (topic, lane), offset in self._offsets.items():
            grouped.setdefault(topic, []).append((lane, offset, _NO_LEADER_EPOCH, "", {}))
        return ((topic, listed, {}) for topic, listed in grouped.items())
