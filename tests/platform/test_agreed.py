"""Agreements on a real broker: what both parties stand by is in force, with its rights; everything else is not, and says why."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bus import access, platform
from bus.avro import dataset
from bus.config import ConfigError, Settings
from bus.core import topics
from bus.core.agreement import GIVER, Agreement
from bus.engine import agreement_log, agreements
from bus.platform import agreed, cluster, declaration, declared, planning
from bus.signatures import keys, statement
from bus.signatures.statement import Act, State, Statement
from bus.subscription import files, order
from bus.subscription.catalog import SubscriptionError
from tests.slower import SEVERAL

TEXT = """\
agency: archive
name: births
purpose: Archive {number}
legal_basis: Decree 1
valid_from: 2026-01-01T00:00:00+07:00
datasets:
  - dataset: civil.birth
    fields: [register_number, province_code]
"""


def new() -> str:
    """A text that nobody has said anything of yet: what is said in this home stays."""
    return TEXT.format(number=uuid4().hex)


@pytest.fixture
def settings(bus_home: Settings, tmp_path: Path) -> Iterator[Settings]:
    """The home with agreement files and parties' keys of its own; afterwards it is what it was."""
    shutil.copytree(bus_home.agreements, tmp_path / "agreements")
    (tmp_path / "parties").mkdir()
    platform.declare(bus_home)
    yield replace(bus_home, agreements=tmp_path / "agreements", parties=tmp_path / "parties")
    declaration.apply(bus_home)


def in_force(settings: Settings) -> dict[str, Agreement]:
    return agreement_log.read(access.confluent(settings, "admin")).agreements()


def with_own_key(settings: Settings, party: str) -> Path:
    """From now on the party signs for itself; the file with its private key."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    keys.own_file(settings, party).write_bytes(public)
    private = settings.parties / f"{party}.key"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return private


def act(settings: Settings, kind: Act, name: str, party: str, key: Path | None = None, reason: str = "") -> State:
    one = agreements.load(settings, dataset.load(settings.schemas))[name]
    done = Statement(kind, name, one.grant_hash, party, 1_800_000_000_000, "", reason)
    return agreed.act(settings, one, done, key).state


def may_read(settings: Settings, agency: str) -> set[str]:
    wanted = declared.rights({}, {})
    with cluster.admin(settings) as client:
        _, surplus = cluster.rights_differing(client, wanted)
    ours = [
        acl for acl in surplus if acl.principal == f"User:agency-{agency}" and acl.resource_pattern.resource_type.name == "TOPIC"
    ]
    return {acl.resource_pattern.resource_name for acl in ours}


def test_a_plan_right_after_an_apply_is_empty_and_names_everything_before_it(settings: Settings) -> None:
    (settings.agreements / "archive.births.yaml").write_text(new())
    (settings.agreements / "education.pupils.yaml").unlink()
    narrowed = settings.agreements / "tax.taxpayers.yaml"
    narrowed.write_text(narrowed.read_text().replace("      - address\n", "", 1))
    plan = planning.make(settings)
    assert (plan.starts, plan.stops) == (("archive.births",), ("education.pupils",))
    assert plan.changes == {"tax.taxpayers": ("population.person: field address is gone",)}
    assert ("archive.births", GIVER) in plan.signs
    assert "agency-archive READ topic agency.archive.births" in plan.rights
    assert "agency-education READ topic agency.education.pupils" in plan.taken
    assert (plan.users, plan.locked, plan.quotas) == (
        ("agency-archive",),
        ("agency-education",),
        ("agency-archive", "agency-education"),
    )
    assert topics.agency("archive.births") in plan.topics
    assert any(line.startswith("agency.archive.births-") and line.endswith(", version 1") for line in plan.schemas)
    declaration.apply(settings)
    assert not planning.make(settings)
    assert not declaration.apply(settings).change


def test_an_agreement_of_a_party_with_a_key_of_its_own_delivers_from_its_signature_on(settings: Settings) -> None:
    key = with_own_key(settings, "archive")
    (settings.agreements / "archive.births.yaml").write_text(new())
    done = declaration.apply(settings)
    assert done.agreed.others().keys() == {"archive.births"}
    assert "bus agreement sign archive.births --as archive" in done.agreed.others()["archive.births"]
    assert "archive.births" not in in_force(settings)
    assert not may_read(settings, "archive")
    with pytest.raises(ConfigError, match="signs with a key of its own"):
        act(settings, Act.SIGN, "archive.births", "archive")
    with pytest.raises(ConfigError, match="is not the private key of archive"):
        act(settings, Act.SIGN, "archive.births", "archive", settings.secret_file("sign-giver"))
    assert act(settings, Act.SIGN, "archive.births", "archive", key) is State.AGREED
    assert declaration.apply(settings).change.on == ("archive.births",)
    assert may_read(settings, "archive") == {"agency.archive.births"}


def test_a_changed_text_waits_for_its_signature_while_the_old_one_goes_on(settings: Settings) -> None:
    key = with_own_key(settings, "archive")
    file = settings.agreements / "archive.births.yaml"
    file.write_text(text := new())
    act(settings, Act.SIGN, "archive.births", "archive", key)
    declaration.apply(settings)
    old = in_force(settings)["archive.births"]
    file.write_text(text.replace("[register_number, province_code]", "[register_number, province_code, child_sex]"))
    assert not declaration.apply(settings).change
    assert in_force(settings)["archive.births"] == old
    assert act(settings, Act.SIGN, "archive.births", "archive", key) is State.AGREED
    assert declaration.apply(settings).change.changed == ("archive.births",)


def test_what_is_revoked_is_off_with_its_rights_and_no_signature_brings_it_back(settings: Settings) -> None:
    file = settings.agreements / "archive.births.yaml"
    file.write_text(new())
    declaration.apply(settings)
    assert may_read(settings, "archive") == {"agency.archive.births"}
    assert act(settings, Act.REVOKE, "archive.births", "archive", reason="done") is State.REVOKED
    done = declaration.apply(settings)
    assert done.change.off == ("archive.births",)
    assert done.agreed.others()["archive.births"].startswith("revoked by archive (done)")
    assert "archive.births" not in in_force(settings)
    assert not may_read(settings, "archive")
    with pytest.raises(ConfigError, match=r"archive.births is revoked by archive \(done\)"):
        act(settings, Act.SIGN, "archive.births", GIVER)
    assert not declaration.apply(settings).change
    file.write_text(new())
    assert declaration.apply(settings).change.on == ("archive.births",), "another text is another agreement"


def test_a_revocation_ends_what_is_in_force_whatever_the_files_say_by_now(settings: Settings) -> None:
    """Its own file was edited, another one is pending and a third one is broken: the agreement ends, and nothing else happens."""
    file, pending, broken = (settings.agreements / f"archive.{name}.yaml" for name in ("births", "more", "broken"))
    file.write_text(text := new())
    declaration.apply(settings)
    before = in_force(settings)
    file.write_text(text.replace("Decree 1", "Decree 2"))
    pending.write_text(new().replace("name: births", "name: more"))
    broken.write_text("agency: [")
    environment = os.environ | {"BUS_AGREEMENTS": str(settings.agreements), "BUS_PARTIES": str(settings.parties)}
    command = [sys.executable, "-m", "bus.cli.main", "--home", str(settings.home), "agreement", "revoke", "archive.births"]
    words = ["--as", "archive", "--reason", "done"]
    done = subprocess.run([*command, *words], env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert in_force(settings) == {name: one for name, one in before.items() if name != "archive.births"}
    assert not may_read(settings, "archive")
    pending.unlink()
    broken.unlink()
    file.write_text(text)
    assert declaration.apply(settings).agreed.others()["archive.births"].startswith("revoked by archive (done)")


def test_subscribers_are_told_of_and_given_what_is_in_force_and_nothing_else(settings: Settings) -> None:
    """A revoked topic among a client's topics would stop it for all: bundles leave it out, and no page calls it in force."""
    names = ("births", "polled", "revoked")
    for name in names:
        text = new().replace("name: births", f"name: {name}")
        (settings.agreements / f"archive.{name}.yaml").write_text(text + ("delivery: feed\n" if name == "polled" else ""))
    declaration.apply(settings)
    act(settings, Act.REVOKE, "archive.revoked", "archive", reason="done")
    declaration.stop(settings, "archive.revoked")
    now_ms = int(time.time() * 1000)
    made = order.files_of(settings, "archive", "python", now_ms)
    assert json.loads(made["client.json"].content)["topics"] == ["agency.archive.births"]
    assert not any("revoked" in name for name in made)
    read = files.read_with_standings(settings)
    told = {name: read.state(read.agreements[f"archive.{name}"], now_ms) for name in names}
    assert told == {"births": "in force", "polled": "in force", "revoked": "not in force: revoked"}
    for name in ("births", "polled"):
        declaration.stop(settings, f"archive.{name}")
    with pytest.raises(SubscriptionError, match="'archive' has no agreement in force that is delivered by topic"):
        order.files_of(settings, "archive", "python", now_ms)


def test_only_the_possible_is_done(settings: Settings) -> None:
    key = with_own_key(settings, "archive")
    (settings.agreements / "archive.births.yaml").write_text(new())
    with pytest.raises(ConfigError, match="nothing to revoke"):
        act(settings, Act.REVOKE, "archive.births", GIVER)
    assert act(settings, Act.REJECT, "archive.births", "archive", key, "too much") is State.REJECTED
    with pytest.raises(ConfigError, match=r"rejected by archive \(too much\)"):
        act(settings, Act.SIGN, "archive.births", "archive", key)
    with pytest.raises(ConfigError, match=r"has signed tax\.taxpayers already"):
        act(settings, Act.REJECT, "tax.taxpayers", "tax")


def test_on_a_cluster_that_was_there_before_nobody_is_signed_for(settings: Settings) -> None:
    foreign = replace(settings, kafka=replace(settings.kafka, bootstrap=access.bootstrap(settings)))
    assert not keys.is_mock(foreign, GIVER)
    (settings.agreements / "archive.births.yaml").write_text(new())
    found = agreed.look(foreign, agreements.load(foreign, dataset.load(foreign.schemas)), {})
    assert found.signed == ()
    assert found.standings["archive.births"].missing == (GIVER, "archive")


STEPS = ("log.write", "cluster.create_users", "cluster.create_topics", "cluster.grant", "quotas.bring", "registration.ensure")
_DYING = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from bus import config
from bus.platform import declaration
from bus.platform import agreed, cluster, quotas
from bus.registry import registration
from bus.signatures import log
home, files, parties, step, after = sys.argv[1:]
settings = replace(config.load(Path(home), env={}), agreements=Path(files), parties=Path(parties))
owner, name = step.split(".")
honest = getattr(globals()[owner], name)
def dying(*given, **named):
    if after == "after":
        honest(*given, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(globals()[owner], name, dying)
declaration.apply(settings)
"""


@pytest.mark.parametrize(
    ("step", "when"),
    [
        pytest.param(step, when, marks=() if (step, when) in {("cluster.grant", "after"), ("log.write", "after")} else SEVERAL)
        for step in STEPS
        for when in ("before", "after")
    ],
)
def test_an_apply_that_is_killed_at_any_step_is_finished_by_the_next(settings: Settings, step: str, when: str) -> None:
    file = settings.agreements / "archive.births.yaml"
    file.write_text(new())
    (settings.agreements / "education.pupils.yaml").unlink()
    given = [str(settings.home), str(settings.agreements), str(settings.parties), step, when]
    dead = subprocess.run([sys.executable, "-c", _DYING, *given], check=False, capture_output=True, text=True, timeout=60)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert planning.make(settings)
    declaration.apply(settings)
    assert not planning.make(settings)
    assert in_force(settings) == agreements.load(settings, dataset.load(settings.schemas))


def test_a_private_key_of_a_mock_party_is_for_its_owner_alone(settings: Settings) -> None:
    assert settings.secret_file("sign-giver").stat().st_mode & 0o777 == 0o600
    assert statement.parties(in_force(settings)["tax.taxpayers"]) == (GIVER, "tax")


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_holds_no_public_key_is_named(settings: Settings, content: str) -> None:
    keys.own_file(settings, "tax").write_text(content)
    with pytest.raises(ConfigError, match=r"tax\.pub holds no Ed25519 public keys"):
        declaration.apply(settings)
