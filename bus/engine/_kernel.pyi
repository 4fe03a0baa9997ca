"""The engine's kernel in C; `bus.engine.native` makes its plans."""

from typing import Any

from bus.engine.plan import Handle

class Plan:
    def __init__(self, given: tuple[Any, ...]) -> None: ...
    handle: Handle
