"""The replica: a writer can be killed at any moment and resumes, and a file that is not ours is never read as if it were."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.engine import replica
from bus.engine.replica import ReplicaError, ReplicaReader, ReplicaWriter

SMALL_MAP = 1 << 30
IDENTITY = b"topic/8/v1"
CHANGES = st.lists(
    st.dictionaries(st.binary(min_size=16, max_size=16), st.none() | st.binary(max_size=400), max_size=20), max_size=6
)


def writer(home: Path, identity: bytes = IDENTITY) -> ReplicaWriter:
    return ReplicaWriter(home, identity, SMALL_MAP)


class OtherProcess:
    """A ReplicaReader in a process of its own, as workers are (LMDB opens a file once a process)."""

    def __init__(self, home: Path) -> None:
        self._pipe, theirs = multiprocessing.get_context("fork").Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=_serve, args=(home, theirs), daemon=True)
        self.process.start()

    def ask(self, *request: object) -> Any:
        self._pipe.send(request)
        assert self._pipe.poll(20), "no answer"
        return self._pipe.recv()

    def ready(self) -> bool:
        return bool(self.ask("ready"))

    def get(self, *keys: bytes) -> dict[bytes, bytes]:
        return {k: v for k, v in zip(keys, self.ask("get", *keys), strict=True) if v is not None}

    def kill(self) -> None:
        self.process.kill()
        self.process.join(10)
        self._pipe.close()


def _serve(home: Path, pipe: Any) -> None:
    reader = ReplicaReader(home)
    while True:
        what, *keys = pipe.recv()
        if what == "ready":
            pipe.send(reader.ready())
            continue
        with reader.view() as get:
            pipe.send([get(k) for k in keys])
            if what == "hold":
                pipe.recv()
                pipe.send([get(k) for k in keys])


@pytest.fixture
def other(tmp_path: Path) -> Iterator[OtherProcess]:
    made = OtherProcess(tmp_path)
    yield made
    made.kill()


def contents(home: Path, keys: set[bytes]) -> dict[bytes, bytes]:
    """Of a replica that no writer has open in this process."""
    reader = ReplicaReader(home)
    reader.ready()
    with reader.view() as get:
        found = {key: get(key) for key in keys}
    reader.close()
    return {k: v for k, v in found.items() if v is not None}


@settings(max_examples=25, deadline=None)
@given(CHANGES)
def test_a_reader_sees_what_a_dictionary_would_hold(
    tmp_path_factory: pytest.TempPathFactory, changes: list[dict[bytes, bytes | None]]
) -> None:
    home = tmp_path_factory.mktemp("home")
    model: dict[bytes, bytes] = {}
    with_all = {key for batch in changes for key in batch}
    made = writer(home)
    for offset, batch in enumerate(changes, 1):
        made.apply(batch, {3: offset})
        model = {k: v for k, v in {**model, **batch}.items() if v is not None}
    assert made.people() == len(model)
    assert made.offsets() == ({3: len(changes)} if changes else {})
    made.close()
    assert contents(home, with_all) == model


def test_it_resumes_with_the_offsets_it_had_and_is_not_emptied(tmp_path: Path) -> None:
    first = writer(tmp_path)
    assert first.rebuilt
    first.apply({b"k" * 16: b"v"}, {0: 5, 11: 7})
    first.finish_load()
    first.close()
    again = writer(tmp_path)
    assert (again.rebuilt, again.loading, again.offsets(), again.people()) == (False, False, {0: 5, 11: 7}, 1)
    again.close()


def test_an_unfinished_load_goes_on_after_a_killed_process_but_not_after_a_crash_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = writer(tmp_path)
    first.apply({b"k" * 16: b"v"}, {0: 5})
    first.close()
    again = writer(tmp_path)
    assert (again.rebuilt, again.loading, again.offsets()) == (False, True, {0: 5})
    again.close()
    monkeypatch.setattr(replica, "boot_id", lambda: b"another boot")
    after_crash = writer(tmp_path)
    assert (after_crash.rebuilt, after_crash.offsets(), after_crash.people()) == (True, {}, 0)
    after_crash.close()


def test_one_made_of_another_topic_is_emptied_and_is_not_ready(tmp_path: Path, other: OtherProcess) -> None:
    first = writer(tmp_path)
    first.apply({b"k" * 16: b"v"}, {0: 5})
    first.set_ready(True)
    first.close()
    second = writer(tmp_path, b"another/8/v1")
    assert (second.rebuilt, second.offsets(), second.people(), other.ready()) == (True, {}, 0, False)
    second.close()


@pytest.mark.parametrize("damage", ["cut to one page", "cut in the middle", "zeroes", "text", "empty"])
def test_a_broken_file_is_filled_anew_and_readers_do_not_use_it(tmp_path: Path, damage: str) -> None:
    first = writer(tmp_path)
    first.apply({os.urandom(16): b"v" * 300 for _ in range(500)}, {0: 5})
    first.finish_load()
    first.set_ready(True)
    first.close()
    data = tmp_path / "replica" / "current" / "data.mdb"
    size = data.stat().st_size
    with data.open("r+b") as file:
        if damage.startswith("cut"):
            file.truncate(4096 if damage.endswith("page") else size // 8192 * 4096)
        else:
            file.truncate(0)
            file.write({"zeroes": bytes(size), "text": b"not a database" * 1000, "empty": b""}[damage])
    # Two meta pages of zeroes are what LMDB itself takes for a new file, in the writer; a reader must refuse them all.
    assert not ReplicaReader(tmp_path).ready()
    again = writer(tmp_path)
    assert (again.rebuilt, again.people(), again.offsets()) == (True, 0, {})
    again.apply({b"k" * 16: b"v"}, {0: 1})
    again.close()
    assert contents(tmp_path, {b"k" * 16}) == {b"k" * 16: b"v"}


def test_a_reader_notices_that_the_file_was_replaced(tmp_path: Path, other: OtherProcess) -> None:
    first = writer(tmp_path)
    first.apply({b"k" * 16: b"old"}, {0: 1})
    first.set_ready(True)
    assert other.ready()
    first.close()
    second = writer(tmp_path, b"another/8/v1")
    assert not other.ready()
    second.apply({b"k" * 16: b"new"}, {0: 1})
    second.set_ready(True)
    assert other.ready()
    assert other.get(b"k" * 16) == {b"k" * 16: b"new"}
    second.close()


def test_the_finished_load_is_compact_and_complete_and_leaves_nothing_else_behind(tmp_path: Path, other: OtherProcess) -> None:
    made = writer(tmp_path)
    people = {os.urandom(16): os.urandom(300) for _ in range(4_000)}
    listed = list(people.items())
    for n in range(0, len(listed), 100):
        made.apply(dict(listed[n : n + 100]), {0: n + 100})
    file = tmp_path / "replica" / "current" / "data.mdb"
    loose = file.stat().st_size
    assert not other.ready()
    made.finish_load()
    made.set_ready(True)
    assert other.ready()
    assert other.get(*people) == people
    assert file.stat().st_size < 0.8 * loose
    assert made.offsets() == {0: 4_000}
    assert sorted(p.name for p in (tmp_path / "replica").iterdir()) == ["2", "current", "writer.lock"]
    made.apply({b"k" * 16: b"v"}, {0: 4_001})
    assert other.get(b"k" * 16) == {b"k" * 16: b"v"}
    made.close()


def test_a_view_stays_at_its_moment_while_the_writer_goes_on(tmp_path: Path, other: OtherProcess) -> None:
    made = writer(tmp_path)
    made.apply({b"k" * 16: b"old"}, {0: 1})
    other.ready()
    assert other.ask("hold", b"k" * 16) == [b"old"]
    made.apply({b"k" * 16: b"new"}, {0: 2})
    assert other.ask("release") == [b"old"]
    assert other.get(b"k" * 16) == {b"k" * 16: b"new"}
    made.close()


def test_a_reader_goes_on_when_the_file_has_outgrown_what_it_was_when_it_was_opened(tmp_path: Path, other: OtherProcess) -> None:
    """The first write of a page more than LMDB maps by default, and of a file that was longer than that already."""
    made = writer(tmp_path)
    keys = [number.to_bytes(16, "big") for number in range(60_000)]
    made.apply({keys[0]: b"first"}, {0: 1})
    made.set_ready(True)
    for end in (30_000, 60_000):
        assert other.ready()
        made.apply({key: bytes(600) for key in keys[end - 30_000 : end]}, {0: end})
        assert other.get(keys[end - 1]) == {keys[end - 1]: bytes(600)}
    made.close()


def test_there_is_one_writer_at_a_time(tmp_path: Path) -> None:
    made = writer(tmp_path)
    with pytest.raises(ReplicaError, match="another register process"):
        writer(tmp_path)
    made.close()
    writer(tmp_path).close()


def test_a_full_map_is_said_and_changes_nothing(tmp_path: Path) -> None:
    made = ReplicaWriter(tmp_path, IDENTITY, 1 << 20)
    with pytest.raises(ReplicaError, match="free disk space"):
        made.apply({os.urandom(16): b"v" * 1000 for _ in range(2000)}, {0: 1})
    assert (made.offsets(), made.people()) == ({}, 0)
    made.close()


_WRITES_FOR_EVER = """
import sys
from pathlib import Path
from bus.engine.replica import ReplicaWriter
made = ReplicaWriter(Path(sys.argv[1]), b"topic/8/v1", 1 << 30)
at = made.offsets().get(0, 0)
while True:
    at += 1
    made.apply({b"%016d" % n: b"%d" % at for n in range(200)} | {b"%016d" % (1000 + at): b"x"}, {0: at})
    print(at, flush=True)
"""


def test_a_killed_writer_leaves_records_and_offset_of_the_same_moment(tmp_path: Path) -> None:
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", _WRITES_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(20):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        child.stdout.close()
        made = writer(tmp_path)
        at = made.offsets()[0]
        made.close()
        keys = {b"%016d" % n for n in range(200)} | {b"%016d" % (1000 + n) for n in range(1, at + 2)}
        found = contents(tmp_path, keys)
        assert found == {b"%016d" % n: b"%d" % at for n in range(200)} | {b"%016d" % (1000 + n): b"x" for n in range(1, at + 1)}


def test_readers_that_died_do_not_hold_pages_for_ever(tmp_path: Path, other: OtherProcess) -> None:
    """A worker killed inside a view leaves a reader slot behind; the next writer clears it, so that the file stops growing."""
    made = writer(tmp_path)
    made.apply({b"k" * 16: b"v"}, {0: 1})
    other.ready()
    assert other.ask("hold", b"k" * 16) == [b"v"]
    other.kill()
    made.close()
    again = writer(tmp_path)
    file, size = tmp_path / "replica" / "current" / "data.mdb", 0
    for n in range(300):
        again.apply({b"%016d" % k: os.urandom(200) for k in range(50)}, {0: n})
        if n == 30:
            size = file.stat().st_size
    assert file.stat().st_size <= 2 * size
    again.close()
