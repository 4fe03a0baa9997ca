"""What the answers of brokers to a transactional producer mean, and why a connection to one was not made."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable
from typing import NoReturn

from aiokafka import errors as told
from confluent_kafka import KafkaError

from bus.engine import client
from bus.engine.client import Abort, HumanNeeded, Indefinite

PUT_OFF = frozenset(
    {KafkaError.CONCURRENT_TRANSACTIONS, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.UNKNOWN_TOPIC_OR_PART}
)
"""Nothing was done, and may be soon."""
ELSEWHERE = frozenset({KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE})
"""Nothing was done; another broker is to be asked."""
OTHER_LEADER = frozenset({KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART})
_NOT_OURS = frozenset(
    {
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.INVALID_TXN_STATE,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.UNKNOWN_PRODUCER_ID,
    }
)
_RIGHTS = "run `bus up`, which sets the access rights"
_TO_DO = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: "run `bus up`, which creates the topics",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: _RIGHTS,
    KafkaError.GROUP_AUTHORIZATION_FAILED: _RIGHTS,
}
_REFUSED_USER = (
    told.SaslAuthenticationFailed,
    told.AuthenticationFailedError,
    told.UnsupportedSaslMechanismError,
    told.IllegalSaslStateError,
)


def judge(code: int, about: str = "") -> None:
    """Return if a broker's answer to a request of a transaction is that all is well; else raise what it means."""
    if code == 0:
        return
    if code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        raise HumanNeeded(f"not allowed to write transactions: {_words(code)}: {_RIGHTS}")
    listed = (_words(code), about, _TO_DO.get(code, ""))
    raise (Indefinite if code in _NOT_OURS else Abort)(": ".join(part for part in listed if part))


def worst(codes: Iterable[int]) -> int:
    """Of the codes of one answer, the one that decides; 0 without any. One refused partition makes a broker leave all others
    alone (OPERATION_NOT_ATTEMPTED), and one that is refused for good is not mended by waiting for another."""
    return min(codes, key=lambda code: (code == 0, code == KafkaError.OPERATION_NOT_ATTEMPTED, code in PUT_OFF), default=0)


def unanswered(error: Exception) -> Exception:
    """What to raise where a request ended in this instead of an answer. Raised by aiokafka it may be anything."""
    if isinstance(error, Abort | Indefinite | HumanNeeded):
        return error
    if isinstance(error, NotImplementedError | told.IncompatibleBrokerVersion):
        return HumanNeeded(
            "the broker takes no form of a request that is known here: it is too old, Kafka 2.5 is the oldest that will do"
        )
    if not isinstance(error, told.KafkaError):
        return Indefinite(f"a request was not answered: {client.place(error)}")
    return Indefinite(f"a request was not answered: {type(error).__name__}{unreached.words()}")


def _words(code: int) -> str:
    error = KafkaError(code)
    return f"{error.name()}: {error.str()}"


class Unreached(logging.Handler):
    """Keeps why the last connection was not made, which aiokafka tells its log only."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.forget()

    def forget(self) -> None:
        self._kind: type[BaseException] = told.KafkaConnectionError
        self._text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple) and record.args and isinstance(record.args[-1], BaseException):
            self._kind, self._text = type(record.args[-1]), str(record.args[-1])

    def words(self) -> str:
        return f" ({self._kind.__name__}: {self._text})" if self._text else ""

    def judge(self) -> NoReturn:
        """Raises HumanNeeded where trying again is of no use, else Indefinite."""
        if issubclass(self._kind, _REFUSED_USER):
            raise HumanNeeded(
                f"the broker refuses this user's password: run `bus up`, which sets users and passwords{self.words()}"
            )
        if issubclass(self._kind, ssl.SSLCertVerificationError):
            raise HumanNeeded(f"the broker's certificate is not one of kafka.ssl_ca's: check that file{self.words()}")
        raise Indefinite(f"no broker is reached{self.words()}")


unreached = Unreached()
_log = logging.getLogger("aiokafka")
_log.addHandler(unreached)
_log.setLevel(logging.ERROR)  # its debug lines quote records
_log.propagate = False  # what matters comes as an error, and the process's own lines are JSON
