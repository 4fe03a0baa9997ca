"""The least processor, as docs/processors.md shows it: notes the event ids it is given in the file PLAIN_FILE."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bus import config
from bus.processors.application import create_app, verified_topics
from tests.processors.trial import SOURCE

if "PLAIN_FILE" in os.environ:
    _FILE = Path(os.environ["PLAIN_FILE"]).open("a")  # noqa: SIM115  # for the life of the process
    app = create_app(config.load(), "processors-plain")

    @app.agent(verified_topics(app, [SOURCE]), concurrency=1)
    async def note(events: Any) -> None:
        async for event in events:
            if event is not None:
                print(int.from_bytes(event["event_id"], "big"), file=_FILE, flush=True)
