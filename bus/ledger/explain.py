"""One event's story: where it was committed, when it was captured, what was found out, and what each agreement made of it.

By ids, positions, counts and names only: of what stands in the row nothing is told but which register fields differ.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # its own documented name

from bus import access
from bus.avro import dataset, frame
from bus.avro.catalogue import CatalogueError
from bus.avro.frame import HEADER_BYTES
from bus.config import ConfigError, Settings
from bus.core import identity, topics
from bus.core.outcome import Outcome
from bus.core.position import EVENT_ID_BYTES, format_lsn
from bus.engine import lanes
from bus.engine.policy import AGREEMENT_KEY
from bus.ledger import reading
from bus.ledger.decoding import Decoder
from bus.ledger.entries import Distillery, event_id
from bus.ledger.lane_tape import consumer_config
from bus.registry import log as registry
from bus.replay.extent import ReplayError, parse_point

PRINCIPAL = "operator"
TOLD_RECORDS = 500_000
STALL_SECONDS = 60.0
CLOCK_MS = 60_000
"""How far the clocks of the bus's processes may be apart."""
_ANSWER_SECONDS = 15.0
_ID_END = HEADER_BYTES + EVENT_ID_BYTES
Place = tuple[str, int]
Found = Callable[[Any], bool]
WHY = {
    Outcome.DELIVERED.value: "delivered",
    Outcome.ROW_FILTER.value: "the agreement's row filter does not take this row, neither before nor after the change",
    Outcome.VERDICT.value: "the agreement asks for another verdict",
    Outcome.INVISIBLE.value: "the update changes nothing that the agreement can see",
    Outcome.NOT_IN_FORCE.value: "the agreement was not in force, or was being given its past in this lane",
}


class ExplainError(ValueError):
    """No story can be told; the message says why and what to do."""


def parse_id(text: str) -> bytes:
    """32 hexadecimal digits, as every view of the bus shows an event id; dashes are left out. Raises ExplainError."""
    try:
        found = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        found = b""
    if len(found) != EVENT_ID_BYTES:
        raise ExplainError(f"{text!r} is no event id: give its 32 hexadecimal digits, as `bus tail` and subscribers show it")
    return found


@dataclass(slots=True)
class _Captured:
    dataset: str
    topic: str
    lane: int
    offset: int
    at_ms: int
    value: bytes


class Explainer:
    """Reads by assignment, as an operator. `close` it."""

    def __init__(self, settings: Settings, progress: Callable[[str], None] = lambda _: None) -> None:
        connection = access.confluent(settings, PRINCIPAL)
        self._progress, self.records = progress, 0
        self._datasets = dataset.load(settings.schemas)
        self._found = registry.read(connection)
        self._decoder = Decoder(self._found)
        self._distillery = Distillery(self._found, {f"{d.domain}_{d.table}": d.name for d in self._datasets.values()})
        self._admin = AdminClient(connection | {"log_level": 0})
        self._consumer = Consumer(consumer_config(connection, PRINCIPAL))
        self._there = self._consumer.list_topics(timeout=_ANSWER_SECONDS).topics
        try:
            self._master: bytes | None = settings.secret(AGREEMENT_KEY)
        except ConfigError:
            self._master = None

    def close(self) -> None:
        self._consumer.close()

    # -- finding it ------------------------------------------------------------------------------------------------------------

    def find(self, wanted: bytes, name: str, since: str) -> _Captured:
        """By the bus's own id or an agency's. Raises ExplainError."""
        if name and name not in self._datasets:
            raise ExplainError(f"no dataset {name!r}: there are {', '.join(self._datasets)}")
        inputs = {d.topic: d.name for d in self._datasets.values() if name in ("", d.name) and d.topic in self._there}
        agencies = [t for t in self._there if t.startswith(topics.agency(""))]
        at_ms = _since(since)
        message = self._scan([*inputs, *agencies], at_ms, lambda m: event_id(m.value()) == wanted)
        if message is not None and message.topic() not in inputs:
            message = self._origin(message, wanted, inputs, at_ms)
        if message is None:
            within = f" since {since}" if since else ""
            raise ExplainError(
                f"no event {wanted.hex()} in {', '.join(inputs)} or the agencies' topics{within}: "
                "is it complete, and of this bus? A wider --since looks further back"
            )
        topic = message.topic()
        return _Captured(
            inputs[topic], topic, message.partition(), message.offset(), message.timestamp()[1], message.value() or b""
        )

    def _origin(self, delivery: Any, wanted: bytes, inputs: Mapping[str, str], at_ms: int | None) -> Any:
        """The captured event of an agency's delivery: the same lane, and an id that under the agreement becomes this one."""
        agreement = delivery.topic().removeprefix(topics.agency(""))
        if self._master is None:
            raise ExplainError("an agency's own event id can be looked up only where the home's agreement-key is")
        keyed = identity.pseudonyms(identity.agreement_secret(self._master, agreement))
        about = self._distillery.delivered(agreement)(delivery).dataset
        topic = next((t for t, d in inputs.items() if d == about), None)
        if topic is None:
            raise ExplainError(f"it is a delivery of {about or 'an unknown dataset'} under {agreement}, which was not looked at")
        self._progress(f"a delivery under {agreement}; looking for its event in {topic} lane {delivery.partition()}")
        return self._scan([topic], at_ms, lambda m: wanted in (own := event_id(m.value()), keyed(own)), delivery.partition())

    def _scan(self, names: Iterable[str], at_ms: int | None, found: Found, lane: int | None = None) -> Any:
        places = [(n, p) for n in names for p in self._there[n].partitions if lane in (None, p)]
        return self._first(self._starts(places, at_ms), found)

    # -- the story ---------------------------------------------------------------------------------------------------------------

    def explain(self, captured: _Captured) -> dict[str, Any]:
        """Ready for JSON."""
        own = event_id(captured.value)
        story: dict[str, Any] = {"event_id": own.hex(), "dataset": captured.dataset} | self._source(captured)
        story["captured"] = _place(captured.topic, captured.lane, captured.offset, captured.at_ms)
        letter: dict[str, Any] | None = self._letter(captured)
        story["dead_letter"], story["redriven"] = letter, None
        if letter is not None and (copy := self._copy(letter["letter"])) is not None:
            story["redriven"] = copy
            captured = _Captured(captured.dataset, captured.topic, copy["lane"], copy["offset"], copy["at_ms"], captured.value)
            story["dead_letter_again"] = letter = self._letter(captured)
        line = self._line(captured)
        story["decided"] = line
        verified = None if line is None or letter is not None else self._verified(captured, own)
        story["state"] = "dead letter" if letter is not None else "waiting" if line is None else "decided"
        story["verdicts"] = [] if verified is None else verified["verification"]
        story["agreements"] = {} if verified is None else self._agreements(captured, own, verified["decisions"])
        return story

    def _source(self, captured: _Captured) -> dict[str, Any]:
        """Of an event that no schema fits, nothing but its id."""
        with contextlib.suppress(frame.Malformed, CatalogueError):
            event = self._decoder.decode(captured.value)
            source = event["source"]
            place = {k: source[k] for k in ("db", "schema", "table", "system_id", "xid", "ordinal", "snapshot")}
            place |= {"lsn": format_lsn(source["lsn"]), "committed_at_ms": source["ts_ms"]}
            return {"op": event["op"], "source": place}
        return {"op": None, "source": None}

    def _letter(self, captured: _Captured) -> dict[str, Any] | None:
        topic = topics.dead(captured.dataset)

        def is_it(message: Any) -> bool:
            return self._distillery.letter(message).origin == captured.offset

        message = self._in_lane(topic, captured, is_it)
        if message is None:
            return None
        code = self._distillery.letter(message).code
        return {"letter": f"{topic}/{captured.lane}/{message.offset()}", "code": code, "at_ms": message.timestamp()[1]}

    def _copy(self, place: str) -> dict[str, Any] | None:
        if topics.REDRIVEN not in self._there:
            return None
        message = self._first(self._starts([(topics.REDRIVEN, 0)], None), lambda m: m.key() == place.encode())
        if message is None:
            return None
        about = json.loads(message.value())
        return {"topic": about["topic"], "lane": about["lane"], "offset": about["offset"], "at_ms": about["at_ms"]}

    def _line(self, captured: _Captured) -> dict[str, Any] | None:
        """The audit line of the transaction that read it."""
        made: dict[str, Any] = {}

        def is_it(message: Any) -> bool:
            content = self._decoder.decode(message.value())
            spans = [i for i in content["inputs"] if i["topic"] == captured.topic]
            if not any(i["first_offset"] <= captured.offset < i["next_offset"] for i in spans):
                return False
            made.update({k: content[k] for k in ("worker", "policy")}, at_ms=content["decided_at_ms"])
            return True

        message = self._in_lane(topics.AUDIT, captured, is_it)
        return None if message is None else {"audit_offset": message.offset()} | made

    def _verified(self, captured: _Captured, own: bytes) -> dict[str, Any] | None:
        message = self._in_lane(topics.verified(captured.dataset), captured, lambda m: event_id(m.value()) == own)
        if message is None:
            return None
        event = self._decoder.decode(message.value())
        kept = ("role", "status", "mismatched", "register_offset")
        return {"verification": [{k: v[k] for k in kept} for v in event["verification"]], "decisions": event["decisions"]}

    def _agreements(self, captured: _Captured, own: bytes, decisions: Iterable[Mapping[str, str]]) -> dict[str, Any]:
        made: dict[str, dict[str, Any]] = {}
        made |= {d["agreement"]: {"outcome": d["outcome"], "why": WHY[d["outcome"]], "delivery": None} for d in decisions}
        past = [name for name in self._given_past(captured.lane) if topics.agency(name) in self._there]
        for name in sorted({*made, *past}):
            about = made.get(name)
            if about is not None and about["outcome"] not in (Outcome.DELIVERED.value, Outcome.NOT_IN_FORCE.value):
                continue
            if about is not None and about["outcome"] == Outcome.NOT_IN_FORCE.value and name not in past:
                continue
            delivery = self._delivery(name, captured, own)
            if delivery is not None and about is None:
                about = made[name] = {"outcome": None, "why": "not there when it came: given with its past", "delivery": None}
            if about is not None:
                about["delivery"] = delivery
        return made

    def _given_past(self, lane: int) -> list[str]:
        """Agreements that are or were given their past in the lane: the newest lane record says."""
        state = lanes.LaneState()
        for message in self._all(self._starts([(topics.LANES, lane)], None)):
            state = lanes.decode(message.value())
        return [name for name, past in state.past.items() if past.next]

    def _delivery(self, agreement: str, captured: _Captured, own: bytes) -> dict[str, Any] | None:
        ids = {own}
        if self._master is not None:
            ids.add(identity.pseudonym(identity.agreement_secret(self._master, agreement), own))
        topic = topics.agency(agreement)
        message = self._in_lane(topic, captured, lambda m: event_id(m.value()) in ids) if topic in self._there else None
        if message is None:
            return None
        found = self._distillery.delivered(agreement)(message)
        op = self._decoder.decode(message.value())["op"]
        about = {"seq": found.seq, "op": op, "event_id": found.event_id.hex(), "grant_hash": found.grant_hash.hex()}
        return _place(topic, captured.lane, found.offset, message.timestamp()[1]) | about

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def _in_lane(self, topic: str, captured: _Captured, found: Found) -> Any:
        """The first record of the event's lane that is it, written about when it was captured or later."""
        if topic not in self._there:
            return None
        starts = self._starts([(topic, captured.lane)], max(0, captured.at_ms - CLOCK_MS))
        return self._first(starts, found)

    def _starts(self, places: list[Place], at_ms: int | None) -> dict[Place, tuple[int, int]]:
        """Place -> (first offset, committed end), without those where nothing stands."""
        latest, earliest = OffsetSpec.latest(), OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        ends = lanes.offsets(self._admin, places, latest, IsolationLevel.READ_COMMITTED)
        if at_ms is None:
            begins = lanes.offsets(self._admin, places, earliest)
        else:
            asked = [TopicPartition(topic, lane, at_ms) for topic, lane in places]
            told = self._consumer.offsets_for_times(asked, _ANSWER_SECONDS)
            begins = {(tp.topic, tp.partition): tp.offset if tp.offset >= 0 else ends[tp.topic, tp.partition] for tp in told}
        return {place: (begins[place], end) for place, end in ends.items() if begins[place] < end}

    def _first(self, spans: Mapping[Place, tuple[int, int]], found: Found) -> Any:
        return next((message for message in self._all(spans) if found(message)), None)

    def _all(self, spans: Mapping[Place, tuple[int, int]]) -> Iterable[Any]:
        """Every committed record of these places up to their ends. Raises ExplainError."""
        about, read = sum(end - begin for begin, end in spans.values()), 0
        try:
            for message in reading.up_to(self._consumer, spans, STALL_SECONDS):
                read += 1
                self.records += 1
                if read % TOLD_RECORDS == 0:
                    self._progress(f"{read:,} of about {about:,} records read")
                yield message
        except reading.ReadTimeout as error:
            raise ExplainError(f"{error}: is the broker up? (`bus status`)") from None


def tell(
    settings: Settings, text: str, name: str = "", since: str = "", progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """The story of the event with this id. Raises ExplainError, ConfigError when there is no bus."""
    wanted, began = parse_id(text), time.monotonic()
    try:
        explainer = Explainer(settings, progress)
        try:
            story = explainer.explain(explainer.find(wanted, name, since))
        finally:
            explainer.close()
    except KafkaException as error:
        raise ExplainError(f"cannot read the topics: {error.args[0].str()}; is the broker up? (`bus status`)") from None
    return story | {"scanned": {"records": explainer.records, "seconds": round(time.monotonic() - began, 3)}}


def _place(topic: str, lane: int, offset: int, at_ms: int) -> dict[str, Any]:
    return {"topic": topic, "lane": lane, "offset": offset, "at_ms": at_ms}


def _since(text: str) -> int | None:
    if text in ("", "beginning"):
        return None
    try:
        found = parse_point(text, datetime.now(UTC))
    except ReplayError as error:
        raise ExplainError(str(error)) from None
    if found.at_ms is None:
        raise ExplainError(f"--since takes a time or how long ago, as 15m: offsets differ from topic to topic, got {text!r}")
    return found.at_ms
