"""Laws of where a webhook may lead: each hostile URL has its verdict though its host be allowed; no address but public ones."""

from __future__ import annotations

import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from bus.delivery import target
from bus.delivery.target import Forbidden, Rules

CORPUS: list[tuple[str, str]] = [
    tuple(one) for one in json.loads(Path(__file__).with_name("hostile_urls.json").read_text("utf-8"))
]
SAYS = {
    "grammar": "is not a plain https URL",
    "scheme": "is not https",
    "host": "is neither a name nor an address",
    "allow-list": "is not in webhooks.allowed_hosts",
    "port": "is not in webhooks.ports",
    "address": "leads to an address that is not public",
}
ONLY = Rules(frozenset({"agency.example"}), frozenset({443}))


def generous(url: str) -> Rules:
    """An allow-list with whatever any parser takes for the host."""
    parsers: tuple[Callable[[str], str | None], ...] = (
        lambda text: urlsplit(text).hostname,
        lambda text: URL(text).host,
        lambda text: URL(text).raw_host,
    )
    found = {"agency.example"}
    for parse in parsers:
        try:
            found.add(parse(url) or "")
        except (ValueError, IndexError):  # yarl stumbles over '[]@'
            continue
    for host in tuple(found):
        try:
            found.add(str(ipaddress.ip_address(host)))
        except ValueError:
            continue
    return Rules(frozenset(found), frozenset({443}))


def test_the_corpus_is_large_and_has_every_verdict() -> None:
    counted = Counter(verdict for _, verdict in CORPUS)
    assert len(CORPUS) >= 200
    assert counted.keys() == {*SAYS, "ok"}
    assert min(counted.values()) >= 10


@pytest.mark.parametrize("verdict", [*SAYS, "ok"])
def test_each_url_has_its_verdict(verdict: str) -> None:
    """What is refused for itself is refused though its host be allowed."""
    wrong = []
    for url, expected in CORPUS:
        if expected != verdict:
            continue
        try:
            target.target(url, ONLY if verdict == "allow-list" else generous(url))
            found = "ok"
        except Forbidden as error:
            found = next((name for name, text in SAYS.items() if text in str(error)), str(error))
        if found != expected:
            wrong.append((url, found))
    assert wrong == []


@pytest.mark.parametrize("url", [url for url, verdict in CORPUS if verdict == "ok"])
def test_what_may_be_goes_where_it_says(url: str) -> None:
    found = target.target(url, ONLY)
    assert (found.scheme, found.host, found.port) == ("https", "agency.example", 443)
    assert found.path.startswith("/")


def test_nothing_is_allowed_by_default_and_the_error_says_what_to_set() -> None:
    with pytest.raises(Forbidden, match=r"webhooks\.allowed_hosts is empty"):
        target.target("https://agency.example/", Rules(frozenset(), frozenset({443})))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machine_is_a_target_on_an_embedded_broker_only_and_only_where_it_is_allowed(host: str) -> None:
    name = host.strip("[]")
    here = Rules(frozenset({name}), frozenset({8443}), loopback=True)
    assert target.target(f"http://{host}:8443/", here).host == name
    with pytest.raises(Forbidden, match="is not https"):
        target.target(f"http://{host}:8443/", Rules(here.hosts, here.ports))
    with pytest.raises(Forbidden, match="allowed_hosts"):
        target.target(f"http://{host}:8443/", Rules(frozenset({"agency.example"}), here.ports, loopback=True))
    with pytest.raises(Forbidden, match="ports"):
        target.target(f"http://{host}:9092/", here)
    assert target.refusal("10.0.0.1", name, here)
    assert not target.refusal("127.0.0.1", name, here)
    assert target.refusal("127.0.0.1", "agency.example", here)


def written_out(address: IPv6Address) -> bool:
    """Public by the standard library's tables and by every address that stands in it."""
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    return address.is_global and not address.is_multicast and not any(inner)


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_public_here_that_the_standard_library_calls_otherwise(address: IPv4Address) -> None:
    if target.is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@given(st.one_of(st.ip_addresses(v=6), st.integers(0x2001 << 112, (0x2003 << 112) - 1).map(IPv6Address)))
def test_no_ipv6_address_is_public_here_that_the_standard_library_calls_otherwise(address: IPv6Address) -> None:
    if target.is_public(address):
        assert written_out(address)


@given(st.ip_addresses(v=4))
def test_no_address_that_stands_for_another_is_public(address: IPv4Address) -> None:
    number = int(address)
    for made in (
        (0xFFFF << 32) | number,
        number,
        (0x64FF9B << 96) | number,
        (0x64FF9B0001 << 80) | number,
        (0x2002 << 112) | (number << 80),
        (0x2001 << 112) | (number ^ 0xFFFFFFFF),
        (0x2001 << 112) | (number << 64),
    ):
        assert not target.is_public(IPv6Address(made))


def test_public_addresses_are_public() -> None:
    for text in ("8.8.8.8", "1.1.1.1", "113.160.0.1", "223.255.255.255"):
        assert target.is_public(IPv4Address(text))
    for text in ("2606:4700:4700::1111", "2001:4860:4860::8888", "2405:4800::1", "2400:cb00::1"):
        assert target.is_public(IPv6Address(text))
    assert not target.is_public(IPv6Address("2606:4700:4700::1111%eth0"))


@given(st.text(st.sampled_from("https:/@#?\\[]%.0x127agency.example \t\r\n１。"), max_size=40))
def test_whatever_is_not_refused_is_read_alike_by_other_parsers(url: str) -> None:
    for made in (url, f"https://{url}", f"https://agency.example{url}"):
        try:
            found = target.target(made, generous(made))
        except Forbidden:
            continue
        assert urlsplit(made).hostname in (found.host, f"{found.host}")
        assert URL(made).host == found.host
        assert re.fullmatch(r"[\x21-\x7e]+", made)
