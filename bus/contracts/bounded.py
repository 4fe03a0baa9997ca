"""A bound on what it takes to judge a schema that somebody hands in.

Calls are counted, not seconds, so that the same schema always gets the same answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TooMuchWork(BaseException):
    """Not an Exception: what is judged may itself catch those, for a verdict."""


@contextmanager
def calls(most: int) -> Iterator[None]:
    """At most so many calls and returns, of Python's functions and built-in ones, in this thread. Raises TooMuchWork inside."""
    left = most

    def count(_frame: FrameType, _event: str, _what: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            sys.setprofile(None)
            raise TooMuchWork

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
