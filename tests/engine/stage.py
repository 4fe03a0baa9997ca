"""The engine on a real broker, with made-up events going in, and the laws that its outputs must keep whatever happened."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaError, TopicPartition

from bus import access
from bus.avro import dataset
from bus.avro.dataset import Dataset
from bus.bench import product
from bus.config import Settings
from bus.core import topics
from bus.engine import agreements
from bus.engine.worker import STUCK_STATUS
from bus.ledger.decoding import Decoder
from bus.registry import log as registry

PEOPLE = 2_000
PATIENCE_SECONDS = 120.0


class Tape:
    """All that a reader of committed records has seen of these topics. Moves forward only."""

    def __init__(self, config: dict[str, Any], watch: product.Watch, names: list[str]) -> None:
        self._watch, self._names = watch, names
        self._next: dict[tuple[str, int], int] = {}
        self.lanes: dict[str, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
        reading = {"isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "error"}
        self._consumer = Consumer(config | reading | {"group.id": "stage", "enable.auto.commit": False})

    def forward(self) -> None:
        """Up to where committed records can be read by now."""
        ends = self._watch.ends(self._names, IsolationLevel.READ_COMMITTED)
        waiting = {place: end for place, end in ends.items() if end > self._next.get(place, 0)}
        self._consumer.assign([TopicPartition(t, p, self._next.get((t, p), 0)) for t, p in waiting])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while waiting:
            assert time.monotonic() < deadline, f"not read to the end: {waiting}"
            found: list[Any] = self._consumer.consume(2_000, 0.1)
            for message in found:
                place = (message.topic(), message.partition())
                if message.error() is None:
                    self.lanes[place[0]][place[1]].append(message)
                    self._next[place] = message.offset() + 1
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    self._next[place] = message.offset()
                if self._next[place] >= waiting.get(place, 0):
                    waiting.pop(place, None)
        self._consumer.unassign()


class Stage:
    """One home. Everything stays in its topics, so every law is checked over all that was ever done here."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.datasets = dataset.load(settings.schemas)
        self.register = dataset.register_of(self.datasets)
        self.agreements = agreements.load(settings, self.datasets)
        self.config = access.confluent(settings, "admin") | {"log_level": 0}
        self.filling = product.Filling(settings, self.datasets, PEOPLE)
        self.watch = product.Watch(settings)
        self.decoder = Decoder(registry.read(self.config))
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.sources = [d for d in self.datasets.values() if not d.register]
        self.outputs = [topics.AUDIT, topics.LANES, *(topics.agency(a) for a in self.agreements)]
        self.outputs += [f(d.name) for d in self.datasets.values() for f in (topics.verified, topics.dead)]
        self._made = {d.name: list(self.filling.events(d).changes(300)) for d in self.sources}
        self._numbers: Counter[str] = Counter()
        self.left: dict[str, dict[tuple[str, int], tuple[int, int]]] = {}
        """What the last look of `drained` found still to do: place -> (come to, end)."""
        self._tape = Tape(self.config, self.watch, [*self.outputs, *(d.topic for d in self.datasets.values())])
        self.filling.register()
        self.start("register")
        log = settings.home / "log" / "register.log"
        self.until("the replica", lambda: "register_ready" in log.read_text(encoding="utf-8"))

    # -- processes ---------------------------------------------------------------------------------------------------------

    def start(self, process: str) -> None:
        self.running[process] = product.start(self.settings, process)

    def kill(self, process: str) -> None:
        """SIGKILL, as a power cut or an out-of-memory killer would."""
        found = self.running.pop(process)
        found.kill()
        found.wait(10)

    def stop(self, process: str) -> None:
        found = self.running.pop(process)
        found.terminate()
        assert found.wait(10) == 0

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
                self.start(name)
            ended = {name: p.returncode for name, p in self.running.items() if p.poll() is not None}
            assert not ended, f"ended by themselves: {ended}: {[self.log(name)[-3:] for name in ended]}"
            time.sleep(0.02)

    # -- what goes in --------------------------------------------------------------------------------------------------------

    def feed(self, count: int) -> None:
        """`count` change events over all sources, each with an id of its own."""
        records = []
        for number in range(count):
            one = self.sources[number % len(self.sources)]
            key, value = self._made[one.name][self._numbers[one.name] % 300]
            self._numbers[one.name] += 1
            records.append((one.topic, key, value[:5] + self._numbers[one.name].to_bytes(16, "big") + value[21:]))
        self.filling.produce(records)

    def drained(self) -> bool:
        """All input is committed, and no transaction of a dead worker hides what was written after it."""
        ends = self.watch.ends(d.topic for d in self.datasets.values())
        come = self.watch.committed(ends)
        self.left = {"unread": {place: (come[place], end) for place, end in ends.items() if come[place] < end}}
        if not self.left["unread"]:
            ends, come = (self.watch.ends(self.outputs, level) for level in IsolationLevel)
            self.left = {"undecided": {place: (come[place], end) for place, end in ends.items() if come[place] != end}}
        return not any(self.left.values())

    # -- what comes out --------------------------------------------------------------------------------------------------------

    def records(self, topic: str) -> list[Any]:
        return [r for _, found in sorted(self.lanes(topic).items()) for r in found]

    def lanes(self, topic: str) -> dict[int, list[Any]]:
        """Lane -> its committed records as of the last `look`, in order."""
        return self._tape.lanes[topic]

    def look(self) -> None:
        self._tape.forward()

    def decode(self, records: Iterable[Any]) -> list[dict[str, Any]]:
        return [self.decoder.decode(r.value()) for r in records]

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
        return decided

    def _check_dataset(
        self, one: Dataset, decided: Counter[tuple[str, str, str]], verdicts: Counter[tuple[str, str]], dead: Counter[str]
    ) -> None:
        """Each change event is verified once, in its lane and in order, beginning with its own bytes, or is a dead letter."""
        out = self.lanes(topics.verified(one.name))
        buried = {(r.partition(), int(dict(r.headers())["x-original-offset"])): r for r in self.records(topics.dead(one.name))}
        assert len(buried) == len(self.records(topics.dead(one.name))), "a record is a dead letter twice"
        for lane, records in self.lanes(one.topic).items():
            good = [r.value() for r in records if (lane, r.offset()) not in buried]
            assert [v.value()[5 : len(g)] for v, g in zip(out[lane], good, strict=True)] == [g[5:] for g in good]
            for record in records:
                letter = buried.pop((lane, record.offset()), None)
                if letter is not None:  # an empty record is false
                    assert (letter.key(), letter.value()) == (record.key(), record.value())
                    assert dict(letter.headers())["x-original-topic"] == one.topic.encode()
                    dead[one.topic] += 1
        assert not buried, "dead letters of records that nobody wrote"
        for event in self.decode(r for records in out.values() for r in records):
            for decision in event["decisions"]:
                decided[decision["agreement"], one.name, decision["outcome"]] += 1
            statuses = [v["status"] for v in event["verification"]]
            gravest = max(statuses, key=["MATCH", "NO_PIN", "NOT_FOUND", "MISMATCH"].index) if statuses else "none"
            verdicts[one.name, gravest] += 1

    def _check_agencies(self, decided: Counter[tuple[str, str, str]]) -> dict[tuple[str, int], int]:
        """`seq` is 1, 2, 3, … in each lane of each agency topic, and as many as were decided. (agreement, lane) -> last."""
        last: dict[tuple[str, int], int] = {}
        for name in self.agreements:
            for lane, records in self.lanes(topics.agency(name)).items():
                found = self.decode(records)
                assert [d["seq"] for d in found] == list(range(1, len(found) + 1)), (name, lane)
                assert {d["agreement"] for d in found} == {name}
                last[name, lane] = len(found)
            total = sum(n for (agreement, _, outcome), n in decided.items() if agreement == name and outcome == "DELIVERED")
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
                    assert reached.get((lane, i["topic"]), 0) == i["first_offset"] < i["next_offset"]
                    assert i["events"] == i["next_offset"] - i["first_offset"]  # `feed` leaves no holes
                    reached[lane, i["topic"]] = i["next_offset"]
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
            assert {(lane, t): n for t, n in record["inputs"].items()} == {k: n for k, n in reached.items() if k[0] == lane}
            assert {(a, lane): n for a, n in record["seq"].items()} == {k: n for k, n in given.items() if k[1] == lane}

    # -- the group ---------------------------------------------------------------------------------------------------------------

    def set_group_offsets(self, offset: int) -> None:
        """Put every committed offset of the (empty) group somewhere else."""
        consumer = Consumer(self.config | {"group.id": "bus-engine", "enable.auto.commit": False})
        places = self.watch.ends(d.topic for d in self.datasets.values())
        consumer.commit(offsets=[TopicPartition(t, p, offset) for t, p in places], asynchronous=False)
        consumer.close()
