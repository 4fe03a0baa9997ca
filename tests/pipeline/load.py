"""Load in the background: the society lives, and the awkward workload runs beside it, until told to stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from connectors.society import live
from tests.pipeline.bus import Bus
from tests.pipeline.workload import Workload

STOP_SECONDS = 60.0


class Load:
    """`committed` counts the awkward workload's transactions; `lived` the society's row changes by dataset."""

    def __init__(self, bus: Bus, seed: int, rate: float) -> None:
        self.workload = Workload(bus, seed)
        self.lived: dict[str, int] = {}
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._guard, args=(work,)) for work in (self._work, self._live)]
        self._bus, self._seed, self._rate = bus, seed, rate

    @property
    def committed(self) -> int:
        if self.errors:
            raise AssertionError("the load has died") from self.errors[0]
        return self.workload.done

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(STOP_SECONDS)
            assert not thread.is_alive(), "the load does not stop"
        self.workload.close()

    def _guard(self, work: object) -> None:
        assert callable(work)
        try:
            work()
        except BaseException as error:
            self.errors.append(error)

    def _work(self) -> None:
        while not self._stop.is_set():
            self.workload.run(20, self._stop.is_set)

    def _live(self) -> None:
        self.lived = live(self._bus.dsns(), self._rate, None, self._seed, lambda _: None, self._stop.is_set)


@contextmanager
def load(bus: Bus, seed: int, rate: float) -> Iterator[Load]:
    made = Load(bus, seed, rate)
    made.start()
    try:
        yield made
    finally:
        made.stop()
    assert not made.errors, made.errors
