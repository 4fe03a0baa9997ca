"""What goes wrong on the way to a broker is never taken for success, and is told in words that help."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as told
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from bus import access, config
from bus.engine.answers import PUT_OFF, unreached, worst
from bus.engine.client import Abort, HumanNeeded, Indefinite
from bus.engine.exchange import Exchange
from bus.engine.membership import Membership
from bus.engine.outbox import Sealed

BATCH = Sealed("t", 0, bytearray(b"x"))
END, ADD, PRODUCE, JOIN = EndTxnRequest, AddPartitionsToTxnRequest, ProduceRequest, AddOffsetsToTxnRequest
MEMBER = Membership("g", 1, "member", None)


def ended(code: int) -> Any:
    return SimpleNamespace(error_code=code)


def added(**codes: int) -> Any:
    return SimpleNamespace(errors=[(topic, [(0, code)]) for topic, code in codes.items()])


def produced(*places: tuple[str, int]) -> Any:
    return SimpleNamespace(topics=[(topic, [(lane, 0, 0, 0, 0)]) for topic, lane in places])


class Client:
    """One broker; `answers` are given in turn, exceptions raised. `knows`: topics whose partitions it has heard of."""

    def __init__(self, *answers: Any, leader: int | None = 1, knows: Iterable[str] = "tu") -> None:
        self._answers, self._knows = list(answers), set(knows)
        self.requests: list[Any] = []
        self.looked_up = self.refreshed = 0
        self.cluster = SimpleNamespace(
            leader_for_partition=lambda _: leader,
            partitions_for_topic=lambda topic: {0} if topic in self._knows else None,
        )

    @property
    def asked(self) -> list[type[Any]]:
        return [type(request) for request in self.requests]

    async def ready(self, _: int) -> bool:
        return True

    def get_random_node(self) -> int:
        return 1

    async def coordinator_lookup(self, *_: Any) -> int:
        self.looked_up += 1
        return 1

    def force_metadata_update(self) -> Awaitable[None]:
        self.refreshed += 1
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def send(self, _: int, request: Any, **__: Any) -> Any:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return await answer if isinstance(answer, asyncio.Future) else answer


def with_client(made: Client, work: Callable[[Exchange], Awaitable[Any]], *, added: bool = True) -> Any:
    """What comes of this with an exchange in a transaction."""

    async def run() -> Any:
        exchange = Exchange({}, "engine-0")
        exchange._client, exchange._group = made, "g"
        exchange._added = {("t", 0), ("u", 0)} if added else set()
        return await work(exchange)

    return asyncio.run(run())


async def flushed(exchange: Exchange) -> None:
    exchange.put(BATCH)
    await exchange.flush("g")


def test_a_batch_that_is_lost_by_an_error_nobody_thought_of_fails_its_transaction() -> None:
    with pytest.raises(Indefinite, match="KeyError"):
        with_client(Client(KeyError("Nguyễn")), flushed)


def test_an_error_nobody_thought_of_is_told_without_its_text() -> None:
    """It might quote a record."""
    with pytest.raises(Indefinite) as found:
        with_client(Client(ValueError("Nguyễn")), lambda exchange: exchange.end(commit=True))
    assert "Nguyễn" not in str(found.value)


def test_a_batch_of_which_an_answer_says_nothing_fails_its_transaction() -> None:
    with_client(Client(produced(("t", 0))), flushed)
    for answer in (produced(), produced(("t", 1)), produced(("u", 0))):
        with pytest.raises(Indefinite):
            with_client(Client(answer), flushed)


def test_partitions_or_offsets_of_which_an_answer_says_nothing_are_not_taken_for_done() -> None:
    for answer in (added(), added(u=0)):
        with pytest.raises(Indefinite):
            with_client(Client(answer), flushed, added=False)
    for answer in (SimpleNamespace(errors=[]), SimpleNamespace(errors=[("t", [(1, 0, {})], {})])):
        with pytest.raises(Indefinite):
            with_client(Client(answer), lambda exchange: exchange.commit_offsets({("t", 0): 1}, MEMBER))


@pytest.mark.parametrize("error", [NotImplementedError("no version"), AssertionError("no brokers"), OSError("gone")])
def test_whatever_ends_a_request_is_one_of_the_three_ends_of_a_step(error: Exception) -> None:
    wanted = HumanNeeded if isinstance(error, NotImplementedError) else Indefinite
    with pytest.raises(wanted):
        with_client(Client(error), lambda exchange: exchange.end(commit=True))
    with pytest.raises(wanted):
        with_client(Client(error), flushed)


def test_a_partition_without_a_leader_aborts_and_is_looked_up_again() -> None:
    for leader in (None, -1):
        made = Client(leader=leader)
        with pytest.raises(Abort, match="'t' lane 0 has no leader"):
            with_client(made, flushed)
        assert made.refreshed == 1
        assert made.asked == []


MEANT: dict[int, type[Exception] | None] = {
    KafkaError.CONCURRENT_TRANSACTIONS: None,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS: None,
    KafkaError.UNKNOWN_TOPIC_OR_PART: None,
    KafkaError.NOT_COORDINATOR: None,
    KafkaError.COORDINATOR_NOT_AVAILABLE: None,
    KafkaError.PRODUCER_FENCED: Indefinite,
    KafkaError.INVALID_PRODUCER_EPOCH: Indefinite,
    KafkaError.INVALID_PRODUCER_ID_MAPPING: Indefinite,
    KafkaError.INVALID_TXN_STATE: Indefinite,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER: Indefinite,
    KafkaError.UNKNOWN_PRODUCER_ID: Indefinite,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: HumanNeeded,
    KafkaError.REQUEST_TIMED_OUT: Abort,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND: Abort,
    KafkaError.UNKNOWN: Abort,
    KafkaError.ILLEGAL_GENERATION: Abort,
    KafkaError.FENCED_INSTANCE_ID: Abort,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: Abort,
    999: Abort,
}
"""What becomes of a step that is answered so; None: it is asked again."""


@pytest.mark.parametrize("code", MEANT)
def test_what_a_code_means(code: int) -> None:
    meant, made = MEANT[code], Client(ended(code), ended(0))
    if meant is None:
        with_client(made, lambda exchange: exchange.end(commit=True))
        assert made.asked == [END] * 2
        assert made.looked_up == (2 if code in (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE) else 1)
    else:
        with pytest.raises(meant) as found:
            with_client(made, lambda exchange: exchange.end(commit=True))
        assert type(found.value) is meant
        assert made.asked == [END]


def test_a_coordinator_that_puts_off_for_ever_is_waited_for_no_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.engine.exchange.AGAIN_SECONDS", 0.0)
    made = Client(ended(KafkaError.CONCURRENT_TRANSACTIONS), ended(0))
    with pytest.raises(Abort, match="CONCURRENT_TRANSACTIONS"):
        with_client(made, lambda exchange: exchange.end(commit=True))
    assert made.asked == [END]


@pytest.mark.parametrize("order", list(itertools.permutations("tu")))
def test_the_topic_that_is_refused_is_named_and_not_those_left_alone_for_it(order: tuple[str, str]) -> None:
    codes = {"t": KafkaError.OPERATION_NOT_ATTEMPTED, "u": KafkaError.TOPIC_AUTHORIZATION_FAILED}
    with pytest.raises(Abort, match=r"TOPIC_AUTHORIZATION_FAILED.*'u'.*bus up"):
        with_client(Client(added(**{topic: codes[topic] for topic in order})), flushed, added=False)


@given(st.lists(st.sampled_from([0, KafkaError.OPERATION_NOT_ATTEMPTED, *PUT_OFF, KafkaError.PRODUCER_FENCED])))
def test_an_answer_is_all_well_only_if_every_part_of_it_is(codes: list[int]) -> None:
    assert (worst(codes) == 0) == (not any(codes))
    if KafkaError.PRODUCER_FENCED in codes:
        assert worst(codes) == KafkaError.PRODUCER_FENCED


def test_a_group_joins_no_transaction_that_has_failed() -> None:
    """Else the reason would come only after a coordinator's answer to what nobody needs."""

    async def work(exchange: Exchange) -> None:
        exchange._group = ""
        await flushed(exchange)

    made = Client(added(t=KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(Abort, match="TOPIC_AUTHORIZATION_FAILED"):
        with_client(made, work, added=False)
    assert made.asked == [ADD]


def known(topic: str, code: int) -> Any:
    return SimpleNamespace(topics=[(code, topic, False, [])])


@pytest.mark.parametrize("code", [0, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE])
def test_a_topic_nobody_hears_of_is_named_in_the_end_and_was_not_made_by_asking(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.engine.exchange.AGAIN_SECONDS", 0.05)
    made = Client(*[known("t", code)] * 100, knows="")
    with pytest.raises(Abort, match="'t'"):
        with_client(made, flushed, added=False)
    assert all(request._allow_auto_topic_creation is False for request in made.requests)
    assert (made.refreshed > 0) == (code == 0)  # only then it can help


def test_the_client_looks_at_all_topics_and_asks_for_none_by_name() -> None:
    """Those it asks for, brokers might make."""

    class Hears(Client):
        def force_metadata_update(self) -> Awaitable[None]:
            self._knows.add("t")
            return super().force_metadata_update()

    async def run() -> None:
        exchange = Exchange({}, "engine-0")
        real, exchange._group = exchange._client, "g"
        exchange._client = Hears(known("t", 0), added(t=0), produced(("t", 0)), knows="")
        await flushed(exchange)
        assert exchange._client.asked[1:] == [ADD, PRODUCE]
        assert real._topics == set()

    asyncio.run(run())


def test_room_is_waited_for_until_enough_is_confirmed() -> None:
    async def work(exchange: Exchange) -> None:
        answer = asyncio.get_running_loop().create_future()
        exchange._client._answers.append(answer)
        exchange.put(BATCH)
        await exchange.has_room(1)  # as much as that is under way
        waiting = asyncio.get_running_loop().create_task(exchange.has_room(0))
        await asyncio.wait({waiting}, timeout=0.05)
        assert not waiting.done()
        answer.set_result(produced(("t", 0)))
        await asyncio.wait_for(waiting, 5)
        assert exchange.pending_bytes == 0

    with_client(Client(), work)


def test_room_is_not_waited_for_where_nothing_is_under_way_or_all_has_failed() -> None:
    async def lost(exchange: Exchange) -> None:
        exchange.pending_bytes = 1
        await exchange.has_room(0)

    async def failed(exchange: Exchange) -> None:
        exchange.put(BATCH)
        await exchange.has_room(0)
        assert isinstance(exchange.failed, Indefinite)

    with pytest.raises(Indefinite):
        with_client(Client(), lost)
    with_client(Client(OSError()), failed)


def test_no_request_is_of_a_version_that_was_not_thought_of() -> None:
    """From EndTxn's version 5 on brokers change the epoch with each transaction (KIP-890), and partitions are not announced."""

    def newest(requests: Iterable[Any]) -> list[int]:
        return [max(form.API_VERSION for form in request._CLASSES) for request in requests]

    assert newest((InitProducerIdRequest, ADD, PRODUCE, AddOffsetsToTxnRequest, END)) == [0, 0, 7, 0, 0]


def said(*errors: BaseException) -> None:
    """As aiokafka does, of a connection that was not made."""
    for number, error in enumerate(errors):
        logging.getLogger("aiokafka.client").error("Unable connect to node with id %s: %s", number, error)


REFUSED = told.SaslAuthenticationFailed("invalid credentials")


@pytest.mark.parametrize(
    ("errors", "kind", "words"),
    [
        ([], Indefinite, "^nobody there$"),
        ([TimeoutError()], Indefinite, "TimeoutError"),
        ([ConnectionRefusedError("refused"), TimeoutError()], Indefinite, "refused.*TimeoutError"),
        ([REFUSED], HumanNeeded, "password.*invalid credentials"),
        ([REFUSED, ConnectionRefusedError("refused")], Indefinite, "refused"),
        ([ConnectionRefusedError("refused"), REFUSED], Indefinite, "refused"),
        ([told.UnsupportedSaslMechanismError("PLAIN")], HumanNeeded, r"kafka\.sasl_mechanism"),
        ([ssl.SSLCertVerificationError("self-signed")], HumanNeeded, r"kafka\.ssl_ca.*self-signed"),
    ],
)
def test_why_a_broker_is_not_reached_is_told_and_needs_a_human_only_if_every_broker_refuses(
    errors: list[BaseException], kind: type[Exception], words: str
) -> None:
    unreached.forget()
    said(*errors)
    found = unreached.reason("nobody there")
    assert type(found) is kind
    assert re.search(words, str(found))


def test_a_request_that_was_sent_is_not_explained_by_a_connection_that_was_not_made() -> None:
    async def ends(exchange: Exchange) -> None:
        await exchange.begin()
        said(ConnectionRefusedError("another broker"))
        await exchange.end(commit=True)

    for error, words in ((told.KafkaConnectionError("closed"), "closed"), (told.NodeNotReadyError("1"), "another broker")):
        with pytest.raises(Indefinite, match=words) as found:
            with_client(Client(error), ends)
        assert ("another broker" in str(found.value)) == (words == "another broker")


def test_an_earlier_transactions_reason_is_not_told_again() -> None:
    async def ends(exchange: Exchange) -> None:
        said(ConnectionRefusedError("before"))
        await exchange.begin()
        await exchange.end(commit=True)

    with pytest.raises(Indefinite, match=r"^a broker is not reached$"):
        with_client(Client(told.NodeNotReadyError("1")), ends)


def test_a_broker_that_nobody_vouches_for_needs_a_human(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    names = ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names], check=True, capture_output=True)

    async def open_() -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key)
        server = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0, ssl=tls)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        trust = {"security_protocol": "SSL", "ssl_context": ssl.create_default_context()}
        async with server:
            await Exchange({"bootstrap_servers": [address], **trust}, "engine-0").open()

    with pytest.raises(HumanNeeded, match=r"kafka\.ssl_ca"):
        asyncio.run(open_())


@pytest.mark.parametrize("client", [access.aiokafka, access.confluent, access.kafka_python])
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_that_cannot_be_read_is_named(
    content: str | None, client: Callable[[config.Settings, str], Any], tmp_path: Path
) -> None:
    authority = tmp_path / "ca.pem"
    if content is not None:
        authority.write_text(content, encoding="utf-8")
    (tmp_path / config.SETTINGS_FILE).write_text(
        f"kafka: {{bootstrap: 'kafka.example:9093', security_protocol: SASL_SSL, ssl_ca: '{authority}'}}\n", encoding="utf-8"
    )
    with pytest.raises(config.ConfigError, match=rf"kafka\.ssl_ca.*{authority}"):
        client(config.load(tmp_path, env={}), "admin")
