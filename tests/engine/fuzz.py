"""Mutated change events for kernel and Python alike, for as long as one likes: `make fuzz MINUTES=5 SEED=1`.

The kernel is built anew with AddressSanitizer and UndefinedBehaviorSanitizer where gcc has them, and Python allocates with
malloc, so that a look beyond a record ends the process. Every round is a few worlds (tests.engine.worlds) and their events, good
ones first; each is changed a little many times over. Whatever comes of it, both must do the same and raise Malformed at most.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

from bus.avro import varint
from bus.avro.frame import Malformed

ROOT = Path(__file__).resolve().parents[2]
MODULE = "bus.engine._kernel"
MUTANTS = 400
"""Made of one world's events."""
_SANITIZED = "LT_FUZZ_KERNEL"
_FLAGS = ["-g", "-O1", "-Wall", "-Wextra", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-shared", "-fPIC"]
_BYTES = (0, 1, 2, 3, 4, 6, 8, 12, 63, 64, 126, 127, 128, 129, 192, 224, 237, 240, 254, 255)
_NUMBERS = (0, 1, -1, 63, 64, -64, -65, 2**31 - 1, 2**31, -(2**31), 2**32, 2**60, 2**63 - 1, -(2**63))


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutated events for the kernel and the Python that it must agree with.")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each further one has the next")
    given = parser.parse_args()
    if built := os.environ.get(_SANITIZED):
        _load(built)
        print("kernel: with sanitizers", flush=True)
    elif gcc := shutil.which("gcc"):
        _again_with_sanitizers(gcc)
    run(given.minutes * 60, given.seed)


def _again_with_sanitizers(gcc: str) -> None:
    """This program once more, with the sanitized kernel; returns where gcc cannot build that."""
    with tempfile.TemporaryDirectory() as made:
        kernel = Path(made) / "_kernel.so"
        include = sysconfig.get_paths()["include"]
        build = subprocess.run([gcc, *_FLAGS, "-I", include, ROOT / "bus/engine/kernel/kernel.c", "-o", kernel], check=False)
        if build.returncode:
            print("kernel: as it was installed; gcc did not build it with sanitizers", flush=True)
            return
        asan = subprocess.run([gcc, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True).stdout.strip()
        env = os.environ | {"LD_PRELOAD": asan, "PYTHONMALLOC": "malloc", _SANITIZED: str(kernel)}
        env |= {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
        sys.exit(
            subprocess.run([sys.executable, "-m", "tests.engine.fuzz", *sys.argv[1:]], env=env, cwd=ROOT, check=False).returncode
        )


def _load(path: str) -> None:
    """The kernel from there, for whoever imports it later."""
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec
    assert spec.loader
    sys.modules[MODULE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[MODULE])


def run(seconds: float, seed: int) -> None:
    """Rounds until the time is over. Raises AssertionError, with seed and record, where the two do not agree."""
    deadline = time.monotonic() + seconds
    seen: Counter[str] = Counter()
    while time.monotonic() < deadline:
        _round(seed, seen)
        seed += 1
        if seed % 10 == 0:
            print(f"next seed {seed}: {dict(seen)}", flush=True)
    print(f"agreed on all of {seen.total():,} records: {dict(seen)}", flush=True)


def _round(number: int, seen: Counter[str]) -> None:
    from bus.engine import native
    from tests.engine.worlds import changes, stages

    assert native.available(), "no kernel to compare with: install gcc and Python's headers, then `make dev` again"

    @hypothesis.seed(number)
    @hypothesis.settings(max_examples=5, database=None, deadline=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(st.data())
    def world(data: st.DataObject) -> None:
        stage = data.draw(stages())
        events = [stage.change(*data.draw(changes(stage.world.dataset))) for _ in range(3)]
        rng = random.Random(number)
        for value, key in events:
            _try(stage, value, key, seen)
        for _ in range(MUTANTS):
            (value, key), (other, _) = rng.choice(events), rng.choice(events)
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                value = mutated(rng, value, other)
            _try(stage, value, key if rng.random() < 0.98 else mutated(rng, key, other), seen)

    world()


def _try(stage, value: bytes, key: bytes, seen: Counter[str]) -> None:  # type: ignore[no-untyped-def]  # imported late
    try:
        stage.plan.handle(value, key, stage.replica.get, stage.seqs, [True] * len(stage.seqs), [])
    except Malformed as bad:
        seen[bad.code.value] += 1
    except BaseException:
        print(f"record {value.hex()} key {key.hex()}", flush=True)
        raise
    else:
        seen["accepted"] += 1


def mutated(rng: random.Random, value: bytes, other: bytes) -> bytes:
    """A small change: a bit, a byte, a number, something cut out, put in, doubled, or taken from another record."""
    at = rng.randrange(min(len(value), 5) if rng.random() < 0.02 else len(value)) if value else 0
    to = min(len(value), at + rng.choice((1, 1, 2, 5, 16, 100)))
    match rng.randrange(8):
        case 0 if at < len(value):
            return value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]
        case 1:
            return value[:at] + bytes([rng.choice(_BYTES)]) + value[at + 1 :]
        case 2:
            return value[:at] + varint.encode(rng.choice(_NUMBERS)) + value[at + rng.randrange(2) :]
        case 3:
            return value[:at] + value[to:]
        case 4:
            return value[:at] + rng.randbytes(to - at) + value[at:]
        case 5:
            return value[:to] + value[at:]
        case 6:
            return value[:at] + other[at:]
        case _:
            return value[:at]


if __name__ == "__main__":
    main()
