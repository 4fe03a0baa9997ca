"""Laws of what is sent next, whatever a receiver answers: nothing is lost, nobody's events change places, waits are bounded."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bus.delivery import outbox
from bus.delivery.outbox import FAILURES_TO_OPEN, MAX_RUN_EVENTS, SCHEDULE_SECONDS, Item, Outbox, Outcome, Read, Run, Send, Wait

LANES = (0, 1)
KEYS = tuple(bytes([number]) for number in range(4))
MOST = 12
SCHEDULE_HOURS = 75.6


def none() -> float:
    return 0.0


class World:
    """A topic, a receiver and a clock around an outbox. `poison`: (lane, offset) that the receiver refuses."""

    def __init__(self, most: int = MOST) -> None:
        self.box = Outbox(dict.fromkeys(LANES, 0), max_waiting=most)
        self.most = most
        self.log: dict[int, list[bytes]] = {lane: [] for lane in LANES}
        self.poison: set[tuple[int, int]] = set()
        self.mood: Outcome | None = None
        """What it answers to everything."""
        self.now_ms = 1_000
        self.taken: dict[int, list[int]] = {lane: [] for lane in LANES}
        self.attempts: list[tuple[int, tuple[int, ...]]] = []

    def turn(self) -> str:
        """What was done: sent, read, or waits."""
        action = self.box.next(self.now_ms)
        if isinstance(action, Read):
            for lane in LANES:
                items = [Item(o, self.log[lane][o], 100) for o in range(self.box.nexts[lane], len(self.log[lane]))]
                if items:
                    assert self.box.take(lane, items) > 0
                    assert self.box.waiting() <= self.most, "more was read than may wait"
                    return "read"
            action = action.otherwise
        if isinstance(action, Wait):
            return "waits"
        self.send(action)
        return "sent"

    def send(self, action: Send) -> None:
        lane, offsets = action.run.lane, action.run.offsets()
        assert 0 < len(offsets) <= MAX_RUN_EVENTS
        self.attempts.append((self.now_ms, offsets))
        if self.mood or any((lane, offset) in self.poison for offset in offsets):
            self.box.failed(action, self.mood or Outcome.REFUSED, self.now_ms, none)
            return
        for offset in offsets:
            key = self.log[lane][offset]
            earlier = [o for o in range(offset) if self.log[lane][o] == key]
            assert set(earlier) <= set(self.taken[lane]), "an event overtook an earlier one of its key"
            assert offset not in self.taken[lane], "sent again after it was taken"
            self.taken[lane].append(offset)
        self.box.delivered(action)

    def restart(self) -> None:
        told = json.loads(json.dumps(self.box.told()))
        keys = {(lane, o): self.log[lane][o] for lane, found in outbox.places(told).items() for o in found}
        again = outbox.restored(told, keys, self.most)
        assert again.told() == self.box.told()
        self.box = again

    def jump(self) -> None:
        """To when something is to be sent."""
        self.now_ms = max(self.now_ms, self.box.next_attempt_ms() or 0)

    def settle(self, turns: int = 2_000) -> None:
        """Until nothing is to be done now."""
        for _ in range(turns):
            if self.turn() == "waits":
                return
        raise AssertionError("it never rests")


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(lane=st.sampled_from(LANES), keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=8))
    def events_come(self, lane: int, keys: list[bytes]) -> None:
        self.world.log[lane] += keys

    @rule(lane=st.sampled_from(LANES), offset=st.integers(0, 30))
    def one_is_refused(self, lane: int, offset: int) -> None:
        self.world.poison.add((lane, offset))

    @rule()
    def the_receiver_is_mended(self) -> None:
        self.world.poison.clear()

    @rule(mood=st.sampled_from([None, None, *(one for one in Outcome if one is not Outcome.DELIVERED)]))
    def the_receiver_changes_its_mood(self, mood: Outcome | None) -> None:
        self.world.mood = mood

    @rule(turns=st.integers(1, 10))
    def time_does_not_pass(self, turns: int) -> None:
        for _ in range(turns):
            self.world.turn()

    @rule()
    def the_next_attempt_is_due(self) -> None:
        self.world.jump()
        self.world.turn()

    @rule()
    def the_process_is_killed(self) -> None:
        self.world.restart()

    @rule(word=st.sampled_from(["resume", "retry"]))
    def an_operator_speaks(self, word: str) -> None:
        getattr(self.world.box, word)(self.world.now_ms)

    @invariant()
    def every_event_that_was_read_is_in_one_place(self) -> None:
        box, world = self.world.box, self.world
        for lane in LANES:
            there = [*world.taken[lane], *(o for run in box.runs if run.lane == lane for o in run.offsets())]
            there += [item.offset for queue in box.queues if queue.lane == lane for item in queue.items]
            assert sorted(there) == list(range(box.nexts[lane]))

    @invariant()
    def waiting_is_bounded_and_each_key_waits_in_one_queue(self) -> None:
        box = self.world.box
        assert box.waiting() < MOST + MAX_RUN_EVENTS
        places = [(queue.lane, queue.items[0].key) for queue in box.queues]
        assert len(places) == len(set(places))
        assert all(item.key == queue.items[0].key for queue in box.queues for item in queue.items)

    def teardown(self) -> None:
        """A receiver that is well again gets everything that it lacks."""
        world = self.world
        world.poison.clear()
        world.mood = None
        world.box.resume(world.now_ms)
        world.box.retry(world.now_ms)
        for _ in range(100):
            world.settle()
            world.jump()
        assert {lane: len(found) for lane, found in world.taken.items()} == {lane: len(log) for lane, log in world.log.items()}


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_an_event_that_is_always_refused_is_tried_ten_times_over_75_hours_and_then_given_up() -> None:
    world = World()
    world.log[0] = [KEYS[0], KEYS[1]]
    world.poison = {(0, 0)}
    world.settle()
    while world.box.next_attempt_ms() is not None:
        world.jump()
        world.settle()
    alone = [at for at, offsets in world.attempts if offsets == (0,)]
    pauses = [(later - at) / 1000 for at, later in itertools.pairwise(alone)]
    assert (0, *pauses) == SCHEDULE_SECONDS
    assert (alone[-1] - alone[0]) / 3_600_000 == pytest.approx(SCHEDULE_HOURS, abs=0.1)
    assert (world.box.given_up(), world.taken[0]) == (1, [1])
    world.now_ms += 10**10
    assert world.turn() == "waits", "what was given up is sent again without a word"
    world.poison.clear()
    world.box.retry(world.now_ms)
    world.settle()
    assert (world.box.given_up(), world.box.waiting(), world.taken[0]) == (0, 0, [1, 0])


def test_what_comes_after_an_event_that_was_given_up_waits_behind_it_and_others_pass() -> None:
    world = World()
    world.log[0] = [KEYS[0]]
    world.poison = {(0, 0)}
    for _ in SCHEDULE_SECONDS:
        world.settle()
        world.jump()
    assert world.box.given_up() == 1
    world.log[0] += [KEYS[1], KEYS[0], KEYS[2]]
    world.settle()
    assert world.taken[0] == [1, 3]
    assert world.box.waiting() == 2


def test_one_bad_event_in_a_full_run_opens_no_circuit_and_everything_else_passes_at_once() -> None:
    for bad in range(MAX_RUN_EVENTS):
        world = World()
        world.log[0] = [bytes([number]) for number in range(MAX_RUN_EVENTS)]
        world.poison = {(0, bad)}
        world.settle()
        assert len(world.taken[0]) == MAX_RUN_EVENTS - 1
        assert not world.box.open


def test_many_events_that_are_refused_again_and_again_hold_up_no_new_ones() -> None:
    """Forty persons of whom one event each is refused, between others that pass: their retries open no circuit."""
    world = World(most=1_000)
    world.log[0] = [bytes([number]) for number in range(80)]
    world.poison = {(0, offset) for offset in range(0, 80, 2)}
    for step in range(400):
        world.settle()
        world.log[0].append(bytes([100]))
        world.settle()
        assert world.taken[0][-1] == 80 + step
        world.jump()
    assert world.box.given_up() == 40


def test_while_everything_is_refused_there_is_one_probe_at_a_time_by_the_schedule_and_no_event_is_given_up() -> None:
    world = World(most=1_000)
    world.log[0] = [bytes([number]) for number in range(200)]
    world.mood = Outcome.REFUSED
    world.settle()
    assert len(world.attempts) == FAILURES_TO_OPEN
    for step in range(1, 40):
        before, at_ms = len(world.attempts), world.now_ms
        world.jump()
        world.settle()
        assert len(world.attempts) == before + 1
        assert (world.now_ms - at_ms) / 1000 == SCHEDULE_SECONDS[min(step, len(SCHEDULE_SECONDS) - 1)]
    tried = [offsets for _, offsets in world.attempts]
    assert len(tried) == len(set(tried)), "a probe was of what was refused before, while there was something new"
    assert world.box.given_up() == 0
    world.mood = None
    for _ in range(60):
        world.jump()
        world.settle()
    assert sorted(world.taken[0]) == list(range(200))


def test_an_outage_costs_no_event_an_attempt_however_often_it_is_the_probe() -> None:
    world = World(most=1_000)
    world.log[0] = [bytes([number]) for number in range(12)]
    world.mood = Outcome.REFUSED
    for _ in range(300):
        world.settle()
        world.jump()
    probes = Counter(offsets for _, offsets in world.attempts)
    assert min(probes[(offset,)] for offset in range(12)) > len(SCHEDULE_SECONDS)
    assert world.box.given_up() == 0


def test_an_event_that_is_held_leaves_other_lanes_alone() -> None:
    first, second = Run(0, (Item(0, KEYS[0]),)), Run(1, (Item(0, KEYS[0]),))
    box = Outbox({0: 1, 1: 1}, [first, second])
    box.failed(Send(first), Outcome.REFUSED, 0, none)
    assert box.runs == [second]
    assert [item.offset for queue in box.queues for item in queue.items] == [0]


def test_an_endpoint_that_nobody_reaches_keeps_its_run_whole_and_is_asked_for_it_again() -> None:
    world = World()
    world.log[0] = list(KEYS)
    world.mood = Outcome.UNREACHABLE
    for _ in range(30):
        world.settle()
        world.jump()
    assert {offsets for _, offsets in world.attempts} == {(0, 1, 2, 3)}
    assert world.box.waiting() == 0


def test_what_a_receiver_asks_for_is_its_pause_within_bounds() -> None:
    for asked_ms, pause_ms in ((7_000, 7_000), (10**12, outbox.LONGEST_PAUSE_SECONDS * 1000), (0, 5_000)):
        world = World()
        world.log[0] = [KEYS[0]]
        world.turn()
        action = world.box.next(world.now_ms)
        assert isinstance(action, Send)
        world.box.failed(action, Outcome.SLOW_DOWN, world.now_ms, none, asked_ms)
        assert world.box.next(world.now_ms + pause_ms - 1) == Wait(world.now_ms + pause_ms)
        assert world.box.next(world.now_ms + pause_ms) == action


def test_an_endpoint_that_has_gone_is_sent_nothing_until_an_operator_says_so() -> None:
    world = World()
    world.log[0] = [KEYS[0]]
    world.mood = Outcome.GONE
    world.settle()
    world.now_ms += 10**10
    world.settle()
    assert len(world.attempts) == 1
    world.mood = None
    world.box.resume(world.now_ms)
    world.settle()
    assert world.taken[0] == [0]


def test_with_as_many_waiting_as_may_be_the_endpoint_reads_no_further() -> None:
    world = World(most=5)
    world.log[0] = [KEYS[0]] * 100
    world.poison = {(0, 0)}
    world.settle()
    assert world.box.waiting() <= MAX_RUN_EVENTS
    read = world.box.nexts[0]
    world.log[1] = [KEYS[1]]
    world.settle()
    assert (world.box.nexts[0], world.box.nexts[1]) == (read, 0)
    world.poison.clear()
    world.jump()
    world.settle()
    assert (len(world.taken[0]), len(world.taken[1])) == (100, 1)


def test_pauses_are_longer_by_chance_within_its_bound() -> None:
    rng = random.Random(1)
    found = [outbox._pause_ms(2, rng.random) for _ in range(1_000)]
    assert 300_000 <= min(found) < max(found) <= 330_000
    assert len(set(found)) > 900
