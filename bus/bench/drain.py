"""Drain: all input is there, the engine starts cold, and the clock runs from its first progress to its last commit."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bus.bench import contestants
from bus.bench.contestants import Contestant
from bus.bench.product import Watch
from bus.config import Settings
from bus.platform import broker

LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 90.0


@dataclass(slots=True)
class Usage:
    """CPU seconds (user and system) and peak memory of processes."""

    processes: list[psutil.Process]
    _peaks: dict[int, int] = field(default_factory=dict)

    def cpu(self) -> float:
        """Also looks at the memory, so that a process that is gone later is counted. Raises RuntimeError when one has ended."""
        spent = 0.0
        for process in self.processes:
            try:
                times = process.cpu_times()
                self._peaks[process.pid] = _status_bytes(process.pid, "VmHWM")
            except (psutil.NoSuchProcess, FileNotFoundError, StopIteration):
                raise RuntimeError(f"process {process.pid} has ended: see the log directory of the home") from None
            spent += times.user + times.system
        return spent

    def peak_rss_mb(self) -> int:
        """The sum over the processes: what several of them map at once counts for each."""
        return sum(self._peaks.values()) // 1_048_576

    def peaks_rss_mb(self) -> list[int]:
        """Of each process, in order."""
        return [self._peaks[process.pid] // 1_048_576 for process in self.processes]

    def anonymous_mb(self) -> list[int]:
        """Of each process, now: memory that is its own alone, without the pages of files that it has mapped."""
        return [_status_bytes(process.pid, "RssAnon") // 1_048_576 for process in self.processes]


def usage(processes: Iterable[contestants.Process]) -> Usage:
    return Usage([psutil.Process(p.pid) for p in processes])


def _status_bytes(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:")) * 1024


@dataclass(frozen=True, slots=True)
class Look:
    """One look at everything: the clock, CPU seconds of engine, broker and machine, and how far the group has come."""

    at: float
    cpu: float
    broker_cpu: float
    machine_cpu: float
    left: int
    outputs: int


class Drain:
    """One run of one contestant whose outputs are empty and whose group begins at the beginning."""

    def __init__(self, settings: Settings, one: Contestant) -> None:
        self._one = one
        self._watch = Watch(settings, one.group)
        self._ends = self._watch.ends(one.inputs)
        self._broker = Usage([broker.start(settings)])

    def measure(self) -> dict[str, Any]:
        """The figures. Raises RuntimeError when an engine ends or does not move."""
        total = sum(self._ends.values())
        began = time.monotonic()
        processes = self._one.start(steady=False)
        try:
            used = usage(processes)
            first, last = self._run(used, total)
            anonymous_mb = used.anonymous_mb()
            restored = self._one.restore_seconds()
        finally:
            contestants.stop(processes)
        seconds, cpu, kafka = last.at - first.at, last.cpu - first.cpu, last.broker_cpu - first.broker_cpu
        other = last.machine_cpu - first.machine_cpu - cpu - kafka
        return {
            "engine": self._one.name,
            "mode": "drain",
            "events": total,
            "seconds": round(seconds, 2),
            "events_per_second": round(total / seconds),
            "cpu_seconds_per_million": round(cpu / total * 1e6, 1),
            "broker_cpu_seconds_per_million": round(kafka / total * 1e6, 1),
            "peak_rss_mb": used.peak_rss_mb(),
            "highest_process_rss_mb": max(used.peaks_rss_mb()),
            "peak_rss_mb_each": used.peaks_rss_mb(),
            "anonymous_mb_each": anonymous_mb,
            "start_seconds": round(first.at - began, 2),
            "restore_seconds": restored,
            "other_cpu_percent": round(100 * other / seconds / (psutil.cpu_count() or 1), 1),
        }

    def _run(self, used: Usage, total: int) -> tuple[Look, Look]:
        """The last look before the first progress, and the first one at which all is committed."""
        first = look = self._look(used)
        moved, progress = look.at, (look.left, look.outputs)
        while look.left:
            time.sleep(LOOK_SECONDS)
            look = self._look(used)
            if look.left == total and not look.outputs:
                first = look
            if (look.left, look.outputs) != progress:
                moved, progress = look.at, (look.left, look.outputs)
            elif look.at - moved > PATIENCE_SECONDS:
                raise RuntimeError(f"{self._one.name} does not move: {look.left} of {total} events left; see the home's log")
        return first, look

    def _look(self, used: Usage) -> Look:
        cpu, kafka, times = used.cpu(), self._broker.cpu(), psutil.cpu_times()
        machine = sum(getattr(times, name) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        outputs = sum(self._watch.ends(self._one.outputs).values())
        done = self._watch.committed(self._ends)
        left = sum(max(0, end - done[place]) for place, end in self._ends.items())
        return Look(time.monotonic(), cpu, kafka, machine, left, outputs)
