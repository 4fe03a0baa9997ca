"""A test event: signed and sent as any other, and without data."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime

from bus.config import Settings
from bus.core.agreement import Agreement
from bus.delivery import cloudevents, signing, webhooks
from bus.delivery.sender import Reply, Sender
from bus.delivery.target import target

TYPE = cloudevents.TYPE_PREFIX + "test"


def send(settings: Settings, agreement: Agreement, sender: Sender) -> Reply:
    """Raises Forbidden, ConfigError."""
    to = target(agreement.delivery.url, webhooks.rules(settings))
    identity, now = uuid.uuid4().hex, time.time()
    event = {
        "specversion": cloudevents.SPEC_VERSION,
        "id": identity,
        "source": cloudevents.SOURCE_PREFIX + agreement.id,
        "type": TYPE,
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    content = json.dumps([event], separators=(",", ":")).encode()
    headers = signing.headers(signing.keys(settings, agreement.id), f"msg_test_{identity}", int(now), content)
    return sender.send(to, headers | {"Content-Type": cloudevents.BATCH_CONTENT_TYPE}, content)
