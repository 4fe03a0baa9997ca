"""What goes wrong on the way to a broker is never taken for success, and is told in words that help."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
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
from bus.engine.answers import PUT_OFF, worst
from bus.engine.client import Abort, HumanNeeded, Indefinite
from bus.engine.exchange import Exchange
from bus.engine.outbox import Sealed

BATCH = Sealed("t", 0, bytearray(b"x"))
END, ADD, PRODUCE = EndTxnRequest, AddPartitionsToTxnRequest, ProduceRequest


def ended(code: int) -> Any:
    return SimpleNamespace(error_code=code)


def added(**codes: int) -> Any:
    return SimpleNamespace(errors=[(topic, [(0, code)]) for topic, code in codes.items()])


def produced(*places: tuple[str, int]) -> Any:
    return SimpleNamespace(topics=[(topic, [(lane, 0, 0, 0, 0)]) for topic, lane in places])


class Client:
    """One broker; `answers` are given in turn, exceptions raised."""

    def __init__(self, *answers: Any, leader: int | None = 1) -> None:
        self._answers = list(answers)
        self.asked: list[type[Any]] = []
        self.looked_up = self.refreshed = 0
        self.cluster = SimpleNamespace(leader_for_partition=lambda _: leader, partitions_for_topic=lambda _: {0})

    async def ready(self, _: int) -> bool:
        return True

    async def coordinator_lookup(self, *_: Any) -> int:
        self.looked_up += 1
        return 1

    def force_metadata_update(self) -> None:
        self.refreshed += 1

    async def send(self, _: int, request: Any, **__: Any) -> Any:
        self.asked.append(type(request))
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
    with pytest.raises(Indefinite) as told:
        with_client(Client(ValueError("Nguyễn")), lambda exchange: exchange.end(commit=True))
    assert "Nguyễn" not in str(told.value)


def test_a_batch_of_which_an_answer_says_nothing_fails_its_transaction() -> None:
    with_client(Client(produced(("t", 0))), flushed)
    for answer in (produced(), produced(("t", 1)), produced(("u", 0))):
        with pytest.raises(Indefinite):
            with_client(Client(answer), flushed)


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


@pytest.mark.parametrize("code", sorted(PUT_OFF))
def test_a_coordinator_that_did_nothing_is_asked_again(code: int) -> None:
    made = Client(ended(code), ended(code), ended(0))
    with_client(made, lambda exchange: exchange.end(commit=True))
    assert made.asked == [END] * 3
    assert made.looked_up == 1


@pytest.mark.parametrize("code", [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE])
def test_a_coordinator_that_is_none_any_more_is_looked_up_again(code: int) -> None:
    made = Client(ended(code), ended(0))
    with_client(made, lambda exchange: exchange.end(commit=True))
    assert made.asked == [END] * 2
    assert made.looked_up == 2


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


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_that_cannot_be_read_is_named(content: str | None, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    if content is not None:
        authority.write_text(content, encoding="utf-8")
    (tmp_path / config.SETTINGS_FILE).write_text(
        f"kafka: {{bootstrap: 'kafka.example:9093', security_protocol: SASL_SSL, ssl_ca: '{authority}'}}\n", encoding="utf-8"
    )
    with pytest.raises(config.ConfigError, match=rf"kafka\.ssl_ca.*{authority}"):
        access.tls(config.load(tmp_path, env={}))
