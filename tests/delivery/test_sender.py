"""Laws of one request, over real sockets: bounded in time whatever a receiver does; only 2xx is success; vetted addresses."""

from __future__ import annotations

import datetime as dt
import json
import os
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bus.delivery.outbox import Outcome
from bus.delivery.sender import LONGEST_RETRY_AFTER_SECONDS, Cancelled, Reply, Sender, look_up, reply_of, retry_after_seconds
from bus.delivery.target import Rules, Target, target
from tests.delivery.receiver import Receiver, receiving

HOST = "agency.example"
TIMEOUT_SECONDS = 0.8
SLACK_SECONDS = 3.0
HEADERS = {"webhook-id": "msg_1", "Content-Type": "application/json"}


def rules(*hosts: str, loopback: bool = True) -> Rules:
    return Rules(frozenset(hosts), frozenset(range(1, 65_536)), loopback)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender(rules("127.0.0.1", "localhost"), timeout_seconds=TIMEOUT_SECONDS)
    yield made
    made.close()


def post(sender: Sender, receiver: Receiver, answer: str = "200") -> Reply:
    receiver.script = lambda _: answer
    return sender.send(target(receiver.url, rules("127.0.0.1")), HEADERS, b"[1]")


WHAT_BECOMES = {
    "200": Reply(Outcome.DELIVERED, "200"),
    "202": Reply(Outcome.DELIVERED, "202"),
    "299": Reply(Outcome.DELIVERED, "299"),
    "301:http://127.0.0.1:1/": Reply(Outcome.REFUSED, "301"),
    "307:http://127.0.0.1:1/": Reply(Outcome.REFUSED, "307"),
    "400": Reply(Outcome.REFUSED, "400"),
    "401": Reply(Outcome.REFUSED, "401"),
    "410": Reply(Outcome.GONE, "410"),
    "429": Reply(Outcome.SLOW_DOWN, "429"),
    "429:7": Reply(Outcome.SLOW_DOWN, "429", 7),
    "500": Reply(Outcome.REFUSED, "500"),
    "503": Reply(Outcome.REFUSED, "503"),
    "503:7": Reply(Outcome.SLOW_DOWN, "503", 7),
    "503:99999999": Reply(Outcome.SLOW_DOWN, "503", LONGEST_RETRY_AFTER_SECONDS),
    "close": Reply(Outcome.REFUSED, "cut off"),
    "reset": Reply(Outcome.REFUSED, "cut off"),
    "garbage": Reply(Outcome.REFUSED, "cut off"),
    "head": Reply(Outcome.REFUSED, "cut off"),
    "hang": Reply(Outcome.REFUSED, "timeout"),
    "drip": Reply(Outcome.REFUSED, "timeout"),
    "2-huge": Reply(Outcome.DELIVERED, "200"),
    "2-slow-body": Reply(Outcome.DELIVERED, "200"),
}


@pytest.mark.parametrize("answer", WHAT_BECOMES)
def test_whatever_a_receiver_does_it_is_told_in_bounded_time(sender: Sender, receiver: Receiver, answer: str) -> None:
    began = time.monotonic()
    assert post(sender, receiver, answer) == WHAT_BECOMES[answer]
    assert time.monotonic() - began < TIMEOUT_SECONDS + SLACK_SECONDS
    assert len(receiver.requests) == 1, "a redirection was followed, or a request repeated by itself"
    assert post(sender, receiver).outcome is Outcome.DELIVERED, "the next request suffers from this one"


def test_a_connection_is_used_again_after_a_short_answer_and_closed_after_a_long_one(sender: Sender, receiver: Receiver) -> None:
    for _ in range(5):
        post(sender, receiver)
    assert receiver.connections == 1
    post(sender, receiver, "2-huge")
    post(sender, receiver)
    assert receiver.connections == 2


def test_nobody_there_is_not_the_events_fault(sender: Sender) -> None:
    with receiving() as gone:
        pass
    assert post(sender, gone) == Reply(Outcome.UNREACHABLE, "no connection")


def test_a_request_under_way_is_broken_off_at_once(receiver: Receiver) -> None:
    receiver.script = lambda _: "hang"
    sender = Sender(rules("127.0.0.1"), timeout_seconds=20 * SLACK_SECONDS)
    stopped = threading.Event()
    threading.Timer(0.2, stopped.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        sender.send(target(receiver.url, rules("127.0.0.1")), HEADERS, b"[1]", stopped.is_set)
    assert time.monotonic() - began < SLACK_SECONDS
    sender.close()


def test_proxies_of_the_environment_are_not_used(receiver: Receiver) -> None:
    with (
        receiving() as proxy,
        mock.patch.dict(os.environ, {"HTTP_PROXY": proxy.url, "ALL_PROXY": proxy.url, "http_proxy": proxy.url}),
    ):
        sender = Sender(rules("127.0.0.1"), timeout_seconds=TIMEOUT_SECONDS)
        assert post(sender, receiver).outcome is Outcome.DELIVERED
        sender.close()
        assert (len(receiver.requests), proxy.connections) == (1, 0)


# -- where a name leads --------------------------------------------------------------------------------------------------------


class Names:
    """A resolver that answers one thing after the other, and counts."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


FORBIDDEN: tuple[list[str], ...] = (
    ["127.0.0.1"],
    ["::1"],
    ["8.8.8.8", "127.0.0.1"],
    ["2606:4700:4700::1111", "::ffff:127.0.0.1"],
    ["10.0.0.1"],
    ["169.254.169.254"],
    ["64:ff9b::7f00:1"],
    ["fe80::1%lo"],
    ["0.0.0.0"],
    ["not an address"],
    [],
)


@pytest.mark.parametrize("answer", FORBIDDEN, ids=str)
def test_a_name_one_address_of_which_is_not_public_is_not_connected_to(receiver: Receiver, answer: list[str]) -> None:
    """And the listener on loopback, to which it leads, hears nothing: not even a connection."""
    names = Names(answer)
    sender = Sender(rules(HOST), lookup=names, timeout_seconds=TIMEOUT_SECONDS)
    found = sender.send(Target("https", HOST, receiver.port, "/", ""), HEADERS, b"[1]")
    sender.close()
    assert found == Reply(Outcome.UNREACHABLE, "forbidden address")
    assert (names.asked, receiver.connections) == (1, 0)


def test_a_loopback_name_that_leads_elsewhere_is_refused(receiver: Receiver) -> None:
    sender = Sender(rules("localhost"), lookup=Names(["10.0.0.1"]), timeout_seconds=TIMEOUT_SECONDS)
    found = sender.send(Target("http", "localhost", receiver.port, "/", ""), HEADERS, b"[1]")
    sender.close()
    assert found.code == "forbidden address"


def test_a_name_is_looked_up_once_for_a_connection_which_goes_to_that_address(receiver: Receiver) -> None:
    """A rebinding resolver: the second answer would be another one."""
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    sender = Sender(rules("localhost"), lookup=names, timeout_seconds=TIMEOUT_SECONDS)
    to = Target("http", "localhost", receiver.port, "/", "")
    assert sender.send(to, HEADERS, b"[1]").outcome is Outcome.DELIVERED
    assert (names.asked, receiver.requests[0].headers["host"]) == (1, f"localhost:{receiver.port}")
    receiver.script = lambda _: "close"
    assert sender.send(to, HEADERS, b"[1]").code == "cut off"  # on the same connection, which is gone then
    assert sender.send(to, HEADERS, b"[1]").code == "forbidden address"
    sender.close()


def test_a_name_that_nobody_knows_is_not_the_events_fault() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    sender = Sender(rules(HOST), lookup=unknown, timeout_seconds=TIMEOUT_SECONDS)
    assert sender.send(Target("https", HOST, 443, "/", ""), HEADERS, b"[1]") == Reply(Outcome.UNREACHABLE, "unknown host")
    sender.close()


def test_the_systems_resolver_gives_addresses() -> None:
    import asyncio

    assert set(asyncio.run(look_up("localhost", 443))) <= {"127.0.0.1", "::1"}


# -- TLS -----------------------------------------------------------------------------------------------------------------------


def certificate(place: Path, name: str) -> ssl.SSLContext:
    """Self-signed, for this host; its file is the authority."""
    key, now = Ed25519PrivateKey.generate(), dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now - dt.timedelta(1)).not_valid_after(now + dt.timedelta(1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    made = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, None)
    place.write_bytes(made.public_bytes(Encoding.PEM))
    private = place.with_suffix(".key")
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(place, private)
    return context


def test_the_certificate_must_be_the_names_and_of_a_known_authority_and_sni_is_the_name(tmp_path: Path) -> None:
    context = certificate(tmp_path / "ca.pem", "localhost")
    heard: list[str | None] = []
    context.sni_callback = lambda _, name, __: heard.append(name)
    with receiving(tls=context) as receiver:
        to = Target("https", "localhost", receiver.port, "/", "")
        for ca, host, code in (("ca.pem", "localhost", "200"), ("", "localhost", "tls"), ("ca.pem", "127.0.0.1", "tls")):
            sender = Sender(rules(host), str(tmp_path / ca) if ca else "", timeout_seconds=TIMEOUT_SECONDS)
            assert sender.send(Target("https", host, to.port, "/", ""), HEADERS, b"[1]").code == code
            sender.close()
        assert len(receiver.requests) == 1
        assert heard[0] == "localhost"


# -- answers -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0), ("0", 0), ("5", 5), ("-5", 0), ("5.5", 0), ("99999999999", 86_400), ("٣", 0), ("9" * 5_000, 0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 21), ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("Thu, 01 Jan 9999 00:00:00 GMT", 86_400),
        ("soon", 0), ("Thu, 99 Jan 1970 00:02:00 GMT", 0), ("\x00", 0),
    ],
)  # fmt: skip
def test_retry_after_is_honoured_within_bounds(text: str, seconds: int) -> None:
    assert retry_after_seconds(text, 100.0) == seconds


def test_every_status_but_2xx_is_a_failure() -> None:
    for status in range(100, 1_000):
        assert (reply_of(status, {}, 0.0).outcome is Outcome.DELIVERED) == (200 <= status <= 299)
    assert json.loads(json.dumps(reply_of(500, {}, 0.0).code)) == "500"
