"""What the answers of brokers to a transactional producer mean, and why a connection to one was not made."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Collection, Iterable

from aiokafka import errors as told
from confluent_kafka import KafkaError

from bus.engine import client
from bus.engine.client import Abort, HumanNeeded, Indefinite
from bus.engine.outbox import Place

PUT_OFF = frozenset(
    {KafkaError.CONCURRENT_TRANSACTIONS, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.UNKNOWN_TOPIC_OR_PART}
)
"""Not now, but soon, perhaps."""
ELSEWHERE = frozenset({KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE})
"""Another broker is to be asked. Like those above, an answer to which the same request once more does no harm."""
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
_REFUSED: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (told.SaslAuthenticationFailed, told.AuthenticationFailedError),
        "the broker refuses this user's password: run `bus up`, which sets users and passwords",
    ),
    (
        (told.UnsupportedSaslMechanismError, told.IllegalSaslStateError),
        "the broker does not log anybody in this way: look at kafka.sasl_mechanism and kafka.security_protocol",
    ),
    ((ssl.SSLCertVerificationError,), "the broker's certificate is not one of kafka.ssl_ca's: check that file"),
)
"""What trying again does not mend: errors, what to say of them."""
_MOST_REASONS = 3


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


def of_places(asked: Collection[Place], answered: Iterable[tuple[str, int, int]]) -> dict[int, str]:
    """Code -> a place of which it was said. `answered`: topic, lane, code. Raises Indefinite if a place is left out."""
    found = {(topic, lane): code for topic, lane, code in answered}
    if any(place not in found for place in asked):
        raise Indefinite("a broker's answer leaves a partition out")
    return {code: f"{topic!r} lane {lane}" for (topic, lane), code in found.items()}


def unanswered(error: Exception) -> Exception:
    """What to raise where a request ended in this instead of an answer. Raised by aiokafka it may be anything."""
    if isinstance(error, Abort | Indefinite | HumanNeeded):
        return error
    if isinstance(error, NotImplementedError | told.IncompatibleBrokerVersion):
        return HumanNeeded(
            "the broker takes no form of a request that is known here: it is too old or too new, 2.5 to 4.3 will do"
        )
    if isinstance(error, told.NodeNotReadyError):
        return unreached.reason("a broker is not reached")
    known = str(error) if isinstance(error, told.KafkaError) else client.place(error)
    return Indefinite(f"a request was not answered: {known}")


def _words(code: int) -> str:
    error = KafkaError(code)
    return f"{error.name()}: {error.str()}"


class Unreached(logging.Handler):
    """Keeps why connections were not made since `forget`, which aiokafka tells its log only."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._told: dict[type[BaseException], str] = {}

    def forget(self) -> None:
        self._told.clear()

    def emit(self, record: logging.LogRecord) -> None:
        error = record.args[-1] if isinstance(record.args, tuple) and record.args else None
        if isinstance(error, told.KafkaError):
            self._told[type(error)] = str(error)
        elif isinstance(error, BaseException):
            self._told[type(error)] = ": ".join(part for part in (type(error).__name__, str(error)) if part)

    def reason(self, what: str) -> Exception:
        """HumanNeeded where trying again is of no use, else Indefinite; `what`, and why."""
        why = "; ".join([*self._told.values()][-_MOST_REASONS:])
        for errors, advice in _REFUSED:
            if self._told and all(issubclass(kind, errors) for kind in self._told):
                return HumanNeeded(f"{advice} ({why})")
        return Indefinite(f"{what} ({why})" if why else what)


unreached = Unreached()
_log = logging.getLogger("aiokafka")
_log.addHandler(unreached)
_log.setLevel(logging.ERROR)  # its debug lines quote records
_log.propagate = False  # what matters comes as an error, and the process's own lines are JSON
