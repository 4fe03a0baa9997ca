"""The engine on a real broker, with made-up events going in, and the laws that its outputs must keep whatever happened."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer, IsolationLevel, KafkaException, Producer, TopicPartition

from bus import access
from bus.avro import catalogue, dataset, derive, frame
from bus.avro.dataset import Dataset
from bus.bench import product
from bus.config import Settings
from bus.core import topics
from bus.engine import agreements, deadletter
from bus.engine.worker import STUCK_STATUS
from bus.ledger import reading
from bus.ledger.account import DatasetInput, settle
from bus.ledger.decoding import Decoder
from bus.platform import declaration
from bus.registry import log as registry
from tests.engine.tape import PATIENCE_SECONDS, Tape

PEOPLE = 2_000


def digest(listed: dict[str, Any]) -> str:
    """Of agreements as an audit line lists them, in id order."""
    return hashlib.sha256(b"".join(a["grant_hash"] for _, a in sorted(listed.items()))).hexdigest()


class Stage:
    """One home. Everything stays in its topics, so every law is checked over all that was ever done here."""

    def __init__(self, settings: Settings, people: int = PEOPLE) -> None:
        self.settings = settings
        self.datasets = dataset.load(settings.schemas)
        self.register = dataset.register_of(self.datasets)
        self.agreements = agreements.load(settings, self.datasets)
        self.config = access.confluent(settings, "admin") | {"log_level": 0}
        self.filling = product.Filling(settings, self.datasets, people)
        self.watch = product.Watch(settings)
        self._catalogue = registry.read(self.config)
        self.decoder = Decoder(self._catalogue)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._homes: dict[str, Settings] = {}
        self._said: dict[str, int] = {}
        """How long a process's log was when it was started."""
        self.sources = [d for d in self.datasets.values() if not d.register]
        self.outputs = [topics.AUDIT, topics.LANES, *(topics.agency(a) for a in self.agreements)]
        self.outputs += [f(d.name) for d in self.datasets.values() for f in (topics.verified, topics.dead)]
        self.inputs = [d.topic for d in self.datasets.values()]
        self._made = {d.name: list(self.filling.events(d).changes(300)) for d in self.sources}
        self._numbers: Counter[str] = Counter()
        self._decoded: dict[tuple[str, int, int], dict[str, Any]] = {}
        self.left: dict[str, dict[tuple[str, int], tuple[int, int]]] = {}
        """What the last look of `drained` found still to do: place -> (come to, end)."""
        self._tape = Tape(self.config, self.watch, [*self.outputs, *self.inputs, topics.AGREEMENTS])
        self.filling.register()
        self.start("register")
        log = settings.home / "log" / "register.log"
        self.until("the replica", lambda: "register_ready" in log.read_text(encoding="utf-8"))

    def apply(self, files: Path | None = None) -> declaration.Applied:
        """What `bus agreement apply` does with these agreement files; without any, with those the stage began with."""
        settings = dataclasses.replace(self.settings, agreements=files or self.settings.agreements)
        self.agreements |= agreements.load(settings, self.datasets)
        done = declaration.apply(settings)
        self.refresh()
        fresh = [name for a in self.agreements if (name := topics.agency(a)) not in self.outputs]
        self.outputs += fresh
        self._tape.add(fresh)
        return done

    def refresh(self) -> None:
        """Schemas were registered."""
        self._catalogue = registry.read(self.config)
        self.decoder = Decoder(self._catalogue)

    # -- processes ---------------------------------------------------------------------------------------------------------

    def start(self, process: str, home: Settings | None = None) -> None:
        """`home`: another home on this broker (`proxy.behind`)."""
        self._homes[process] = home or self.settings
        path = self.settings.home / "log" / f"{process}.log"
        self._said[process] = path.stat().st_size if path.exists() else 0
        self.running[process] = product.start(self._homes[process], process)

    def kill(self, process: str) -> None:
        """SIGKILL, as a power cut or an out-of-memory killer would."""
        found = self.running.pop(process)
        found.kill()
        found.wait(10)

    def stop(self, process: str) -> None:
        """Once it listens: before, a request to stop just ends it."""
        path = self.settings.home / "log" / f"{process}.log"
        self.until(f"{process} to begin", lambda: b"process_started" in path.read_bytes()[self._said.get(process, 0) :])
        found = self.running.pop(process)
        found.terminate()
        assert found.wait(10) == 0

    def stop_workers(self) -> None:
        for process in set(self.running) - {"register"}:
            self.kill(process)

    def stop_all(self) -> None:
        for process in list(self.running):
            self.kill(process)

    def log(self, process: str) -> list[dict[str, Any]]:
        text = (self.settings.home / "log" / f"{process}.log").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def until(self, what: str, done: Callable[[], bool], restarting: bool = False) -> None:
        """`restarting`: a worker that gave up a call that does not return is started again, as the supervisor does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            assert time.monotonic() < deadline, f"waited in vain for {what}; {self.left}"
            for name in [name for name, p in self.running.items() if restarting and p.poll() == STUCK_STATUS]:
                self.start(name, self._homes[name])
            ended = {name: p.returncode for name, p in self.running.items() if p.poll() is not None}
            assert not ended, f"ended by themselves: {ended}: {[self.log(name)[-3:] for name in ended]}"
            time.sleep(0.02)

    # -- what goes in --------------------------------------------------------------------------------------------------------

    def feed(self, count: int) -> None:
        """`count` change events over all sources, each with an id of its own."""
        self.filling.produce(self._events(count))

    def _events(self, count: int) -> list[tuple[str, bytes, bytes]]:
        records = []
        for number in range(count):
            place = number % len(self.sources)
            one = self.sources[place]
            key, value = self._made[one.name][self._numbers[one.name] % 300]
            self._numbers[one.name] += 1
            event_id = (place + 1).to_bytes(8, "big") + self._numbers[one.name].to_bytes(8, "big")
            records.append((one.topic, key, value[:5] + event_id + value[21:]))
        return records

    def feed_in_vain(self, count: int) -> None:
        """As many that were never committed, and then some that are, so that no lane ends with what nobody reads."""
        producer = Producer(self.config | {"transactional.id": "in vain", "partitioner": "murmur2_random"})
        producer.init_transactions(30)
        producer.begin_transaction()
        for topic, key, value in self._events(count):
            producer.produce(topic, value, key)
        producer.flush(30)
        producer.abort_transaction(30)
        self.until("the abort markers", lambda: self._decided(self.inputs))  # an abort is answered before all are written
        self.feed(40 * len(self.sources))

    def poison(self) -> None:
        """Two truncated records, and good ones behind them."""
        one = self.sources[0]
        key, value = self._made[one.name][0]
        self.filling.produce([(one.topic, key, value[:-1]), (one.topic, key, value[:40])])
        self.feed(20)

    def drained(self) -> bool:
        """All input is committed, and no transaction of a dead worker hides what was written after it.

        A broker that restarts does not say.
        """
        return self._told(self._drained)

    def decided(self, names: list[str]) -> bool:
        """Whether no open transaction hides anything in these topics."""
        return self._told(lambda: self._decided(names))

    def _told(self, look: Callable[[], bool]) -> bool:
        try:
            return look()
        except KafkaException as error:
            self.left = {error.args[0].str(): {}}
            return False

    def _drained(self) -> bool:
        ends = self.watch.ends(self.inputs)
        come = self.watch.committed(ends)
        self.left = {"unread": {place: (come[place], end) for place, end in ends.items() if come[place] < end}}
        return not self.left["unread"] and self._decided(self.outputs)

    def _decided(self, names: list[str]) -> bool:
        """Whether no open transaction hides what was written after it."""
        ends, come = (self.watch.ends(names, level) for level in IsolationLevel)
        self.left = {"undecided": {place: (come[place], end) for place, end in ends.items() if come[place] != end}}
        return not self.left["undecided"]

    # -- what comes out --------------------------------------------------------------------------------------------------------

    def records(self, topic: str) -> list[Any]:
        return [r for _, found in sorted(self.lanes(topic).items()) for r in found]

    def lanes(self, topic: str) -> dict[int, list[Any]]:
        """Lane -> its committed records as of the last `look`, in order."""
        return self._tape.lanes[topic]

    def look(self) -> None:
        self._tape.forward()

    def decode(self, records: Iterable[Any]) -> list[dict[str, Any]]:
        """Each record is decoded once, however often the laws are checked over it."""
        return [self._decode(r) for r in records]

    def _decode(self, record: Any) -> dict[str, Any]:
        place = record.topic(), record.partition(), record.offset()
        if place not in self._decoded:
            self._decoded[place] = self.decoder.decode(record.value())
        return self._decoded[place]

    def dataset_of(self, value: bytes) -> str:
        """Of a delivery, by the name of its schema."""
        namespace = str(json.loads(self._catalogue.schema(frame.schema_id(value)))["namespace"]).rsplit(".", 1)[1]
        return next(name for name in self.datasets if name.replace(".", "_", 1) == namespace)

    def last_lane_records(self) -> dict[int, dict[str, Any]]:
        return {lane: json.loads(found[-1].value()) for lane, found in self.lanes(topics.LANES).items()}

    def check(self) -> Counter[tuple[str, str, str]]:
        """All laws over everything so far; (agreement, dataset, outcome) -> events as the audit has it."""
        self.look()
        decided: Counter[tuple[str, str, str]] = Counter()
        verdicts: Counter[tuple[str, str]] = Counter()
        dead: Counter[str] = Counter()
        for one in self.datasets.values():
            self._check_dataset(one, decided, verdicts, dead)
        delivered = self._check_agencies(decided)
        self._check_audit(decided, verdicts, dead, delivered)
        self._check_changes()
        self._check_past()
        return decided

    def _check_dataset(
        self, one: Dataset, decided: Counter[tuple[str, str, str]], verdicts: Counter[tuple[str, str]], dead: Counter[str]
    ) -> None:
        """Each change event is verified once, in its lane and in order, beginning with its own bytes, or is a dead letter."""
        out = self.lanes(topics.verified(one.name))
        buried = {(r.partition(), int(dict(r.headers())["x-original-offset"])): r for r in self.records(topics.dead(one.name))}
        assert len(buried) == len(self.records(topics.dead(one.name))), "a record is a dead letter twice"
        schema = derive.change(one)
        today = self._catalogue.id_for(catalogue.value_subject(one.topic), schema)
        for lane, records in self.lanes(one.topic).items():
            values = [r.value() for r in records if (lane, r.offset()) not in buried]
            good = [v if frame.schema_id(v) == today else self._resolved(v, schema, today) for v in values]
            assert [v.value()[5 : len(g)] for v, g in zip(out[lane], good, strict=True)] == [g[5:] for g in good]
            for record in records:
                letter = buried.pop((lane, record.offset()), None)
                if letter is not None:  # an empty record is false
                    assert (letter.key(), letter.value()) == deadletter.carried(record.key(), record.value())
                    assert dict(letter.headers())["x-original-topic"] == one.topic.encode()
                    dead[one.topic] += 1
        assert not buried, "dead letters of records that nobody wrote"
        for event in self.decode(r for records in out.values() for r in records):
            for decision in event["decisions"]:
                decided[decision["agreement"], one.name, decision["outcome"]] += 1
            statuses = [v["status"] for v in event["verification"]]
            gravest = max(statuses, key=["MATCH", "NO_PIN", "NOT_FOUND", "MISMATCH"].index) if statuses else "none"
            verdicts[one.name, gravest] += 1

    def _resolved(self, value: bytes, schema: Any, schema_id: int) -> bytes:
        """A change event of an earlier schema as Avro resolves it to this one."""
        writer = fastavro.parse_schema(json.loads(self._catalogue.schema(frame.schema_id(value))))
        reader, out = fastavro.parse_schema(json.loads(json.dumps(schema))), io.BytesIO()
        found = fastavro.schemaless_reader(io.BytesIO(value[frame.HEADER_BYTES :]), writer, reader)
        fastavro.schemaless_writer(out, reader, found)
        return frame.header(schema_id) + out.getvalue()

    def _check_agencies(self, decided: Counter[tuple[str, str, str]]) -> dict[tuple[str, int], int]:
        """`seq` is 1, 2, 3, … in each lane of each agency topic, and as many as were decided. (agreement, lane) -> last."""
        last: dict[tuple[str, int], int] = {}
        for name in self.agreements:
            for lane, records in self.lanes(topics.agency(name)).items():
                found = self.decode(records)
                assert [d["seq"] for d in found] == list(range(1, len(found) + 1)), (name, lane)
                assert {d["agreement"] for d in found} == {name}
                last[name, lane] = len(found)
            every = decided + self.past_outcomes()
            total = sum(n for (agreement, _, outcome), n in every.items() if agreement == name and outcome == "DELIVERED")
            assert sum(n for (agreement, _), n in last.items() if agreement == name) == total
        return last

    def _check_audit(
        self,
        decided: Counter[tuple[str, str, str]],
        verdicts: Counter[tuple[str, str]],
        dead: Counter[str],
        delivered: dict[tuple[str, int], int],
    ) -> None:
        """The audit lines add up to the outputs, cover every input offset once and in order, and name every `seq`."""
        outcomes: Counter[tuple[str, str, str]] = Counter()
        seen: Counter[tuple[str, str]] = Counter()
        buried: Counter[str] = Counter()
        reached: dict[tuple[int, str], int] = {}
        given: dict[tuple[str, int], int] = {}
        for lane, records in self.lanes(topics.AUDIT).items():
            for line in self.decode(records):
                assert line["lane"] == lane
                for i in line["inputs"]:
                    come, first, end = reached.get((lane, i["topic"]), 0), i["first_offset"], i["next_offset"]
                    assert come <= first < end
                    assert self._committed(i["topic"], lane, come, first) == 0, "records were passed over"
                    assert i["events"] == self._committed(i["topic"], lane, first, end)
                    reached[lane, i["topic"]] = end
                    buried[i["topic"]] += i["dead"]
                for o in line["outcomes"]:
                    outcomes[o["agreement"], o["dataset"], o["outcome"]] += o["count"]
                for v in line["verdicts"]:
                    seen[v["dataset"], v["verdict"]] += v["count"]
                for d in line["deliveries"]:
                    assert d["first_seq"] == given.get((d["agreement"], lane), 0) + 1
                    given[d["agreement"], lane] = d["last_seq"]
        assert outcomes == decided
        assert seen == verdicts
        assert +buried == +dead
        assert given == delivered
        for lane, record in self.last_lane_records().items():
            assert {(lane, t): n for t, n in record["inputs"].items() if n} == {k: n for k, n in reached.items() if k[0] == lane}
            assert {(a, lane): n for a, n in record["seq"].items()} == {k: n for k, n in given.items() if k[1] == lane}

    def _committed(self, topic: str, lane: int, first: int, end: int) -> int:
        """Committed records from one offset up to another."""
        left, right = (bisect_left(self.lanes(topic)[lane], at, key=lambda r: int(r.offset())) for at in (first, end))
        return right - left

    def _check_changes(self) -> None:
        """Every event is decided, and every delivery made, under exactly the agreements in force at its input's offset."""
        for lane, records in self.lanes(topics.AUDIT).items():
            at, policies, seqs = dict[str, int](), list[tuple[dict[str, int], dict[str, Any]]](), Counter[str]()
            for line in self.decode(records):
                if line["change"] is not None:
                    policies.append(self._check_change(line["change"], policies, at))
                at |= {i["topic"]: i["next_offset"] for i in line["inputs"]}
                for given in line["deliveries"]:
                    name = given["agreement"]
                    found = self.decode(self.lanes(topics.agency(name))[lane][seqs[name] : given["last_seq"]])
                    seqs[name] = given["last_seq"]
                    assert {d["grant_hash"] for d in found} == {policies[-1][1][name]["grant_hash"]}, (lane, name)
            for one in self.datasets.values():
                self._check_decisions(one, lane, policies)

    def _check_change(
        self, change: dict[str, Any], policies: list[tuple[dict[str, int], dict[str, Any]]], at: dict[str, int]
    ) -> tuple[dict[str, int], dict[str, Any]]:
        """(input topic -> first offset, agreement -> what is said of it), joined to what was before and where the lane stood."""
        listed = {a["agreement"]: a for a in change["agreements"]}
        before = policies[-1][1] if policies else {}
        assert change["before"] == (digest(before) if policies else "")
        assert change["after"] == digest(listed)
        places = {i["topic"]: i["next_offset"] for i in change["inputs"]}
        assert places == {d.topic: at.get(d.topic, 0) for d in self.datasets.values()}
        return places, listed

    def _check_decisions(self, one: Dataset, lane: int, policies: list[tuple[dict[str, int], dict[str, Any]]]) -> None:
        buried = {int(dict(r.headers())["x-original-offset"]) for r in self.lanes(topics.dead(one.name))[lane]}
        good = [r.offset() for r in self.lanes(one.topic)[lane] if r.offset() not in buried]
        for offset, event in zip(good, self.decode(self.lanes(topics.verified(one.name))[lane]), strict=True):
            listed = next(found for places, found in reversed(policies) if places[one.topic] <= offset)
            asked = [a for a, about in listed.items() if one.name in about["datasets"]]
            assert [d["agreement"] for d in event["decisions"]] == asked, (one.name, lane, offset)

    def account(self) -> list[str]:
        """What `bus demo`'s account finds wrong with the topics."""
        listed = [
            DatasetInput(d, tuple(a for a, one in self.agreements.items() if any(g.dataset == d.name for g in one.grants)))
            for d in self.datasets.values()
        ]
        return settle(listed, lambda topic: reading.read(self.config, topic), self.decoder).problems

    def past_outcomes(self) -> Counter[tuple[str, str, str]]:
        """(agreement, dataset, outcome) -> events of before it was switched on, as the audit has it."""
        found: Counter[tuple[str, str, str]] = Counter()
        for line in self.decode(self.records(topics.AUDIT)):
            for o in line["past_outcomes"]:
                found[o["agreement"], o["dataset"], o["outcome"]] += o["count"]
        return found

    def _check_past(self) -> None:
        """What an agreement is given of its past is every verified event before it went live that it had not decided on, once,
        and it goes live where the lane's inputs and outputs stand."""
        for lane, records in self.lanes(topics.AUDIT).items():
            come: dict[tuple[str, str], int] = {}
            read: Counter[tuple[str, str]] = Counter()
            told: Counter[tuple[str, str]] = Counter()
            for line in self.decode(records):
                for span in line["past"]:
                    place = span["agreement"], span["topic"]
                    assert come.get(place, 0) == span["first_offset"] < span["next_offset"]
                    come[place] = span["next_offset"]
                    read[place] += span["events"]
                    told[place] += span["events"] - span["decided"]
                for o in line["past_outcomes"]:
                    told[o["agreement"], topics.verified(o["dataset"])] -= o["count"]
                assert not +told, "an outcome for each event"
                assert not -told, "an outcome for each event"
                for caught in line["caught_up"]:
                    self._check_caught_up(lane, caught, come, read)
            last = self.last_lane_records().get(lane, {}).get("past", {})
            known = {(a, t): at for a, about in last.items() for t, at in about["next"].items()}
            assert {place: known[place] for place in come} == come

    def _check_caught_up(
        self, lane: int, caught: dict[str, Any], come: dict[tuple[str, str], int], read: Counter[tuple[str, str]]
    ) -> None:
        name, inputs = caught["agreement"], {i["topic"]: i["next_offset"] for i in caught["inputs"]}
        for place in caught["past"]:
            topic, end = place["topic"], place["next_offset"]
            assert come.get((name, topic), 0) <= end
            come[name, topic] = end
            before = [r for r in self.lanes(topic)[lane] if r.offset() < end]
            assert read[name, topic] == len(before)
            one = self.datasets[topic.removeprefix("verified.")]
            sources = self.lanes(one.topic)[lane]  # as many were processed before, dead letters included
            buried = {int(dict(r.headers())["x-original-offset"]) for r in self.lanes(topics.dead(one.name))[lane]}
            assert len(before) == sum(r.offset() < inputs[one.topic] and r.offset() not in buried for r in sources)

    # -- the group ---------------------------------------------------------------------------------------------------------------

    def set_group_offsets(self, offset: int) -> None:
        """Put every committed offset of the (empty) group somewhere else."""
        consumer = Consumer(self.config | {"group.id": "bus-engine", "enable.auto.commit": False})
        places = self.watch.ends(d.topic for d in self.datasets.values())
        consumer.commit(offsets=[TopicPartition(t, p, offset) for t, p in places], asynchronous=False)
        consumer.close()
