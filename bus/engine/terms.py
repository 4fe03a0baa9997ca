"""What an agreement file says besides what flows: the way of delivery, and the terms that people keep."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from bus.access import LOOPBACK
from bus.core.agreement import Delivery, Terms, Way
from bus.engine.grants import Checker
from bus.engine.yaml_lines import Item

TERMS_KEYS = ("procedure", "officer_role", "data_life", "contacts")
_TEXTS = TERMS_KEYS[:2]
_MAX_TEXT_CHARS = 500
_LIFE = re.compile(r"P(?=\d)(\d{1,4}Y)?(\d{1,4}M)?(\d{1,5}D)?")


def read_delivery(check: Checker, item: Item | None) -> Delivery:
    """`topic`, `feed`, or a mapping `webhook: URL`; left out: topic."""
    if item is None:
        return Delivery()
    if item.text in (Way.TOPIC.value, Way.FEED.value):
        return Delivery(Way(item.text))
    entries = check.keys(item, (Way.WEBHOOK.value,), "'delivery'") if item.entries is not None else {}
    if Way.WEBHOOK.value not in entries:
        found = item.text or item.kind()
        check.wrong(
            item.line, f"'delivery' must be topic, feed or a webhook, found {found!r}", "write 'webhook: https://…' under it"
        )
        return Delivery()
    url = check.text(entries[Way.WEBHOOK.value], Way.WEBHOOK.value, item)
    if url and (why := _wrong_url(url)):
        check.wrong(
            entries[Way.WEBHOOK.value].line, f"the webhook's address {why}", "write it like 'https://agency.example/events'"
        )
    return Delivery(Way.WEBHOOK, url)


def _wrong_url(url: str) -> str:
    """What is wrong with an address as such; '' if nothing. Where it leads is looked at when something is sent there."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if not host or not url.isascii() or any(c.isspace() for c in url):
        return "is not a URL of ASCII letters with a host"
    if parts.username is not None or parts.password is not None:
        return "holds a user or password, which everybody could read here"
    if parts.fragment:
        return "has a fragment, which is never sent"
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
        return "is not https (http only to this machine, with an embedded broker)"
    return ""


def read_terms(check: Checker, entries: dict[str, Item], parent: Item) -> Terms:
    """The keys of `TERMS_KEYS`, all of them optional."""
    texts = {key: _short(check, entries[key], key, parent) for key in _TEXTS if key in entries}
    life = check.text(entries["data_life"], "data_life", parent) if "data_life" in entries else ""
    if life and not _LIFE.fullmatch(life):
        check.wrong(entries["data_life"].line, f"'data_life' {life!r} is not a duration", "write it like 'P5Y', 'P6M' or 'P90D'")
    contacts = check.texts(entries["contacts"], "'contacts'") if "contacts" in entries else []
    return Terms(**texts, data_life=life, contacts=tuple(text for text, _ in contacts))


def _short(check: Checker, item: Item, key: str, parent: Item) -> str:
    text = check.text(item, key, parent)
    if len(text) > _MAX_TEXT_CHARS:
        check.wrong(item.line, f"{key!r} has {len(text)} characters", f"at most {_MAX_TEXT_CHARS} are kept")
    return text


def delivery_content(delivery: Delivery) -> object:
    """As the canonical form has it."""
    return {delivery.way.value: delivery.url} if delivery.way is Way.WEBHOOK else delivery.way.value


def parsed_delivery(found: object) -> Delivery:
    """Of the canonical form. Raises ValueError, KeyError or TypeError for anything that `delivery_content` would not make."""
    if isinstance(found, dict):
        return Delivery(Way.WEBHOOK, str(found[Way.WEBHOOK.value]))
    return Delivery(Way(str(found)))


def terms_content(terms: Terms) -> dict[str, object]:
    """As the canonical form has them: those that are there."""
    content: dict[str, object] = {key: getattr(terms, key) for key in TERMS_KEYS[:3] if getattr(terms, key)}
    return content | ({"contacts": list(terms.contacts)} if terms.contacts else {})


def parsed_terms(found: dict[str, Any]) -> Terms:
    """Of the canonical form."""
    return Terms(**{key: str(found.get(key, "")) for key in TERMS_KEYS[:3]}, contacts=tuple(map(str, found.get("contacts", ()))))
