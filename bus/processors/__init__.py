"""Faust apps on the bus's low-volume streams, and the place to put your own: `faust -A bus.processors worker -l info`.

`app` is made when it is first asked for, from the home that BUS_HOME names (default .bus).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import faust

    app: faust.App


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bus.processors import start

    globals()["app"] = made = start.app_or_exit()
    return made
