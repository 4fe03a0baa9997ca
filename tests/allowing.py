"""A right that no agreement gives, for as long as a test needs it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from bus.config import Settings
from bus.platform import cluster
from bus.platform.declared import Right

WAIT_SECONDS = 20.0


@contextmanager
def allowed(settings: Settings, agency: str, topic: str) -> Iterator[None]:
    """An agency's user may read this topic, too."""
    right = Right(f"agency-{agency}", "topic", topic, "literal", "READ")
    with cluster.admin(settings) as client:
        client.create_acls([cluster._acl(right)])
        deadline = time.monotonic() + WAIT_SECONDS
        while cluster.rights_differing(client, {right})[0]:
            assert time.monotonic() < deadline, "the right does not show"
            time.sleep(0.02)
        try:
            yield
        finally:
            client.delete_acls([cluster._acl(right)])
