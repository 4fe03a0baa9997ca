"""From a row that a clerk writes to a signature that an agency verifies: the whole way of a webhook, in one test."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import yaml
from standardwebhooks import Webhook

from bus import config
from bus.delivery import signing
from bus.platform import declaration
from tests.delivery.receiver import Receiver, receiving
from tests.delivery.test_signing import verify_ed25519
from tests.pipeline.bus import Bus

PATIENCE_SECONDS = 60.0
NAME = "tax.births"
TEXT = """\
agency: tax
name: births
purpose: Dependants
legal_basis: Law on Tax Administration 38/2019/QH14
valid_from: 2026-01-01T00:00:00+07:00
delivery: {{webhook: '{url}'}}
datasets:
  - dataset: civil.birth
    fields: [register_number, province_code]
"""


def register_birth(bus: Bus) -> str:
    """The number of a new entry in the register of births."""
    identity = uuid.uuid4()
    with bus.owner("civil") as connection:
        connection.execute(
            "INSERT INTO birth (birth_id, register_number, registered_on, child_pin, child_name, child_sex, child_birth_date,"
            " birth_place, province_code) VALUES (%s, %s, now(), '001226000001', 'Vũ Bé', 'Nữ', '2026-02-28', 'Hà Nội', '01')",
            (identity, str(identity)[:24]),
        )
    return str(identity)[:24]


def home_of(bus: Bus, place: Path, port: int) -> Path:
    """A home for the process alone, on the running bus: there the setting was not made when it was started."""
    place.mkdir()
    for name in ("secrets", "parties", "run"):
        (place / name).symlink_to(bus.settings.home / name)
    document = {"webhooks": {"allowed_hosts": ["127.0.0.1"], "ports": [port]}}
    (place / config.SETTINGS_FILE).write_text(yaml.safe_dump(document), encoding="utf-8")
    return place


def registered(bus: Bus, receiver: Receiver) -> set[str]:
    """Numbers of births, written until one has arrived: those before the engine works by the new agreement are not for it."""
    written: set[str] = set()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not receiver.taken:
        assert time.monotonic() < deadline, "no birth arrives"
        written.add(register_birth(bus))
        until = time.monotonic() + 1.0
        while not receiver.taken and time.monotonic() < until:
            time.sleep(0.02)
    return written


def test_a_row_arrives_as_a_signed_event(running_bus: Bus, tmp_path: Path) -> None:
    files = Path(shutil.copytree(running_bus.settings.agreements, tmp_path / "agreements"))
    with receiving() as receiver:
        (files / "tax.births.yaml").write_text(TEXT.format(url=receiver.url), encoding="utf-8")
        home = home_of(running_bus, tmp_path / "home", receiver.port)
        declaration.apply(dataclasses.replace(running_bus.settings, agreements=files))
        shared = signing.with_hmac(running_bus.settings, NAME)
        command = [sys.executable, "-m", "bus.cli.main", "--home", str(home), "run", "webhooks"]
        with (tmp_path / "webhooks.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
        try:
            written = registered(running_bus, receiver)
            process.terminate()
            assert process.wait(10) == 0, (tmp_path / "webhooks.log").read_text()
        finally:
            process.kill()
            declaration.apply(running_bus.settings)
            running_bus.rest()
    request = receiver.taken[0]
    (event, *_) = Webhook(shared[1].shared()).verify(request.body, request.headers)
    assert verify_ed25519(shared[0].public(), request.headers, request.body)
    assert (event["source"], event["type"]) == (f"/agreements/{NAME}", "vn.lienthong.civil.birth.created")
    assert event["data"]["row"] in [{"register_number": number, "province_code": "01"} for number in written]
    for text in ("001226000001", "Vũ Bé", "Hà Nội"):
        assert text.encode() not in request.body, "more than the agreement grants"
    assert "Vũ Bé" not in (tmp_path / "webhooks.log").read_text()
