"""Where a webhook may lead: addresses of agencies on an allow-list and, whatever their names say, public ones only.

The grammar is narrow: what two parsers could read differently is refused. The table of addresses is our own, because CPython's
`is_private` was wrong before 3.12.4 (CVE-2024-4032), and every address that stands for another one (mapped, 6to4, NAT64, Teredo)
is refused without looking at what it stands for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_MAX_URL_CHARS = 2_000
_MAX_HOST_CHARS = 253
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<path>/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?(?P<query>\?(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?",
    re.ASCII,
)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)

_CLOSED_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # unspecified, this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # a cloud's own services, at a public address
            "169.254.0.0/16",  # link-local, and the metadata services of clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)
_OPEN_6 = IPv6Network("2000::/3")
"""Global unicast. Outside of it lie loopback, mapped, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), ULA, link-local, multicast."""
_CLOSED_6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)


class Forbidden(ValueError):
    """Nothing may be sent there; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`hosts`, lower case, and `ports`: the allow-list. `loopback`: whether it may name this machine (embedded broker only)."""

    hosts: frozenset[str]
    ports: frozenset[int]
    loopback: bool = False

    def may_be_here(self, host: str) -> bool:
        return self.loopback and host in LOOPBACK_HOSTS


@dataclass(frozen=True, slots=True)
class Target:
    """`host` in lower case, without brackets; `path` begins with '/', `query` without '?'."""

    scheme: str
    host: str
    port: int
    path: str
    query: str


def target(url: str, rules: Rules) -> Target:
    """Raises Forbidden. The name of the host is looked up by nobody here: see `refusal`."""
    found = _URL.fullmatch(url) if len(url) <= _MAX_URL_CHARS else None
    if found is None:
        raise Forbidden("the webhook's address is not a plain https URL: write it like 'https://agency.example/events'")
    scheme, host = found["scheme"].lower(), _host(found["host"].lower())
    if scheme != "https" and not (scheme == "http" and rules.may_be_here(host)):
        raise Forbidden("the webhook's address is not https")
    if not rules.hosts:
        raise Forbidden("webhooks.allowed_hosts is empty, so nothing is sent: name the agencies' hosts in the settings")
    if host not in rules.hosts:
        raise Forbidden(f"the host {host} is not in webhooks.allowed_hosts: have it checked, then add it to the settings")
    port = int(found["port"] or (443 if scheme == "https" else 80))
    if port not in rules.ports:
        raise Forbidden(f"port {port} is not in webhooks.ports")
    if (address := _literal(host)) and (why := refusal(address, host, rules)):
        raise Forbidden(f"the webhook's address {why}")
    return Target(scheme, host, port, found["path"] or "/", (found["query"] or "?")[1:])


def _host(text: str) -> str:
    """Raises Forbidden for what is neither a name nor an address in its usual spelling."""
    wrong = Forbidden("the webhook's host is neither a name nor an address in its usual spelling")
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            raise wrong from None
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(text))
        except ValueError:
            raise wrong from None
    if len(text) > _MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise wrong
    return text


def _literal(host: str) -> str:
    """The host if it is an address, else ''."""
    return host if ":" in host or _NUMBER.fullmatch(host.rsplit(".", 1)[-1]) else ""


def refusal(address: str, host: str, rules: Rules) -> str:
    """Why this address of `host` may not be connected to, or ''."""
    try:
        found = IPv6Address(address) if ":" in address else IPv4Address(address)
    except ValueError:
        return "is no address"
    if rules.may_be_here(host):
        return "" if found in (IPv4Address("127.0.0.1"), IPv6Address("::1")) else "is a loopback name that leads elsewhere"
    return "" if is_public(found) else "leads to an address that is not public"


def is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_4)
    return address.scope_id is None and address in _OPEN_6 and not any(address in network for network in _CLOSED_6)
