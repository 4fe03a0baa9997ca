"""Who is let in: known names with their own passwords, for as long as they count."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from bus.config import ConfigError, Registry, Settings
from bus.registry import server
from bus.registry.users import Users

INDEX = b'{"tax.people":"00","tax-office.other":"00"}'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "secrets").mkdir()
    for principal in ("admin", "engine", "capture-civil", "capture-gone", "agency-tax", "agency-gone", "stranger"):
        (tmp_path / "secrets" / f"kafka-{principal}").write_text(f"{principal}'s")
    (tmp_path / "secrets" / "kafka-operator").write_text("")
    return Settings(home=tmp_path)


def login(user: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


def test_each_known_principal_is_let_in_with_its_own_password_only(settings: Settings) -> None:
    users = Users(settings, ["civil"])
    users.take_index(INDEX)
    names = ("admin", "engine", "capture-civil", "agency-tax")
    for user in (
        *names,
        "capture-gone",
        "agency-gone",
        "stranger",
        "operator",
        "agency-",
        "",
        "agency-tax-office",
        "../kafka-admin",
    ):
        for password in (*(f"{name}'s" for name in (*names, "agency-gone", "stranger")), ""):
            viewer = users.viewer(login(user, password))
            assert (viewer is not None) == (user in names and password == f"{user}'s"), (user, password)
            assert viewer is None or viewer.writes == (user == "admin")


def test_an_agency_sees_what_begins_with_its_own_name_and_a_dot(settings: Settings) -> None:
    users = Users(settings, [])
    users.take_index(INDEX)
    viewer = users.viewer(login("agency-tax", "agency-tax's"))
    assert viewer
    assert viewer.sees("agency.tax.people-value")
    for other in ("agency.tax-office.other-value", "agency.tax", "verified.x-value", "", "AGENCY.tax.people-value"):
        assert not viewer.sees(other)


def test_an_agency_counts_as_long_as_an_agreement_names_it(settings: Settings) -> None:
    users = Users(settings, [])
    header = login("agency-tax", "agency-tax's")
    assert users.viewer(header) is None
    users.take_index(INDEX)
    assert users.viewer(header)
    for index in (b'{"tax-office.other":"00"}', None, b"not json", b"5"):
        users.take_index(INDEX)
        users.take_index(index)
        assert users.viewer(header) is None, index


def test_a_changed_password_counts_within_a_second(settings: Settings) -> None:
    now = [0.0]
    users = Users(settings, [], lambda: now[0])
    assert users.viewer(login("engine", "engine's"))
    settings.secret_file("kafka-engine").write_text("new\n")
    now[0] = 1.0
    assert users.viewer(login("engine", "engine's")) is None
    assert users.viewer(login("engine", "new"))
    settings.secret_file("kafka-engine").unlink()
    now[0] = 2.0
    assert users.viewer(login("engine", "new")) is None


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Basic", b"Basic ", b"Basic !!!", b"Basic " + b"A" * 2_000, b"Bearer x", b"Basic /w==", b"Basic YWRtaW4="],
)
def test_what_is_no_login_is_nobody(settings: Settings, header: bytes | None) -> None:
    assert Users(settings, []).viewer(header) is None


@pytest.mark.parametrize(
    ("registry", "right"),
    [
        (Registry(), True),
        (Registry(host="localhost"), True),
        (Registry(host="::1"), True),
        (Registry(host="0.0.0.0"), False),
        (Registry(host="registry.example"), False),
        (Registry(host="0.0.0.0", tls_certificate="c"), False),
        (Registry(host="0.0.0.0", tls_certificate="c", tls_key="k"), True),
    ],
)
def test_no_password_leaves_the_machine_readable(registry: Registry, right: bool) -> None:
    if right:
        server.require_guarded(Settings(registry=registry))
    else:
        with pytest.raises(ConfigError, match="tls_key"):
            server.require_guarded(Settings(registry=registry))
