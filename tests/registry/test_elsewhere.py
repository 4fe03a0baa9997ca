"""`registry.url`: the bus's schemas are registered through another registry's REST interface, and must stand in `_schemas`."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import pytest

from bus.avro.catalogue import Catalogue
from bus.config import ConfigError, Registry, Settings
from bus.platform import checks, roster
from bus.registry import registration
from bus.registry.log import RegistryError
from bus.registry.remote import Registry as Remote
from tests.registry.served import Served


def record(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": f"R{uuid.uuid4().hex}", "namespace": "elsewhere", "fields": list(fields)}


@pytest.fixture
def elsewhere(registry: Served) -> Settings:
    """A bus whose registry is the running one, as if it were another."""
    registry.settings.secret_file("registry-user").write_text(registry.password + "\n")
    named = Registry(url=registry.url + "/", user="admin")
    return dataclasses.replace(registry.settings, registry=named)


def test_what_is_registered_there_is_read_by_the_bus_and_registering_again_changes_nothing(elsewhere: Settings) -> None:
    wanted = {f"elsewhere-{uuid.uuid4().hex}/{n}": record() for n in range(2)}
    ids = registration.ensure(elsewhere, wanted)
    assert len(set(ids.values())) == 2
    assert registration.ensure(elsewhere, wanted) == ids


def test_levels_are_set_there_and_what_was_signed_may_break_them(elsewhere: Settings, registry: Served) -> None:
    subject, schema = f"elsewhere-{uuid.uuid4().hex}", record()
    registration.ensure(elsewhere, {subject: schema}, {subject: "FULL_TRANSITIVE"})
    assert registry.get(f"/config/{subject}") == {"compatibilityLevel": "FULL_TRANSITIVE"}
    changed = schema | {"fields": [{"name": "must", "type": "int"}]}
    ids = registration.ensure(elsewhere, {subject: changed}, {subject: "FULL_TRANSITIVE"})
    assert ids == registration.ensure(elsewhere, {subject: changed}, {subject: "FULL_TRANSITIVE"})
    assert registry.get(f"/config/{subject}") == {"compatibilityLevel": "FULL_TRANSITIVE"}


@pytest.mark.parametrize("url", ["http://registry.example:8081", "http://10.0.0.7", "HTTP://127.0.0.1.example"])
def test_no_password_goes_over_a_network_in_clear(elsewhere: Settings, url: str) -> None:
    named = dataclasses.replace(elsewhere, registry=Registry(url=url, user="admin"))
    with pytest.raises(ConfigError, match="use https"):
        Remote.of(named)
    Remote.of(dataclasses.replace(elsewhere, registry=Registry(url=url.lower().replace("http:", "https:"), user="admin")))
    Remote.of(dataclasses.replace(elsewhere, registry=Registry(url=url)))


def test_a_refusal_is_told_with_its_reason_and_without_the_password(elsewhere: Settings, registry: Served) -> None:
    subject, schema = f"elsewhere-{uuid.uuid4().hex}", record()
    registration.ensure(elsewhere, {subject: schema})
    changed = schema | {"fields": [{"name": "must", "type": "int"}]}
    with pytest.raises(RegistryError, match="READER_FIELD_MISSING_DEFAULT_VALUE") as told:
        registration.ensure(elsewhere, {subject: changed})
    elsewhere.secret_file("registry-user").write_text("wrong")
    with pytest.raises(RegistryError, match="401") as refused:
        registration.ensure(elsewhere, {subject: changed})
    gone = dataclasses.replace(elsewhere, registry=Registry(url="http://127.0.0.1:1"))
    with pytest.raises(RegistryError, match="does not answer"):
        registration.ensure(gone, {subject: changed})
    assert registry.password not in str(told.value) + str(refused.value) + repr(Remote.of(elsewhere))


def test_a_registry_that_keeps_its_state_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, elsewhere: Settings) -> None:
    monkeypatch.setattr(registration, "VISIBLE_SECONDS", 0.0)
    with pytest.raises(RegistryError, match="must keep its state there"):
        registration._through(Remote.of(elsewhere), Catalogue, {f"elsewhere-{uuid.uuid4().hex}": record()}, {})


def test_the_bus_then_serves_none(elsewhere: Settings) -> None:
    assert roster.REGISTRY not in [worker.name for worker in roster.workers(elsewhere, {})]
    assert roster.REGISTRY in [worker.name for worker in roster.workers(dataclasses.replace(elsewhere, registry=Registry()), {})]


def test_the_doctor_asks_the_registry_that_is_used(elsewhere: Settings, registry: Served) -> None:
    for settings in (elsewhere, registry.settings):
        (check,) = checks._registry(settings)
        assert check.grade == "ok", check
        assert registry.url in check.found
    (check,) = checks._registry(dataclasses.replace(elsewhere, registry=Registry(url="http://127.0.0.1:1")))
    assert check.grade == "failed"
    assert check.todo
