"""What the engine's Kafka clients have in common: bounds, reading committed records only, and which errors pass by themselves."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import traceback
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException

GRACE_SECONDS = 1.7
"""From the request to stop to the end of the process, at most."""
QUIET = logging.getLogger("bus.engine.librdkafka")
"""Takes what librdkafka would print beside our JSON lines; what matters of it comes as an error, too."""
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False
READER = {
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "partition.assignment.strategy": "range",
    "fetch.wait.max.ms": 100,
    "fetch.min.bytes": 1,
    "fetch.error.backoff.ms": 100,
    "reconnect.backoff.max.ms": 1_000,
    "check.crcs": True,
    "logger": QUIET,
}
"""Settings of every consumer here; offsets never are reset silently."""

QUEUE_KBYTES = 8_192
"""What a member of the group may hold ready, over all lanes; one answer of the broker can come on top."""
FETCH_BYTES = 2_097_152
"""Most of one answer, compressed; it may be four times as much when unpacked."""
MEMBER = READER | {
    "session.timeout.ms": 10_000,
    "heartbeat.interval.ms": 2_000,
    "max.poll.interval.ms": 900_000,
    "enable.partition.eof": False,
    "queued.max.messages.kbytes": QUEUE_KBYTES,
    "queued.min.messages": 20_000,
    "fetch.queue.backoff.ms": 10,
    "fetch.max.bytes": FETCH_BYTES,
    "fetch.message.max.bytes": 524_288,
}
"""Settings of the engine's members of its group."""

STUCK_LOOKS = 15
"""How often a watched call of the client may be seen under way, at a look a second: far longer than any is asked or known to
take."""
PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
    }
)


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Set by SIGTERM or SIGINT; the loops look at it between steps."""

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> Stop:
        """Call before any other thread is started: one that began earlier would take the signal and end the process."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=self._wait, name="stop", daemon=True).start()
        return self

    def _wait(self) -> None:
        """Every step can be cut short without harm, so a call that hangs (a broker that is away) does not hold up the stop.

        In a thread of its own, for Python runs a signal's handler only once the main thread is back from such a call.
        """
        signal.sigwait(_SIGNALS)
        self.asked = True
        time.sleep(GRACE_SECONDS)
        os._exit(0)


class Calls:
    """Which call of the Kafka client is under way, for another thread to look at now and then.

        with calls: consumer.close()

    A call may call back and be watched in there, too; what comes after the inner call has its own time. Counted are looks and
    not seconds: while the whole process is stopped (SIGSTOP, a frozen container) nobody looks, and no call is to blame.
    """

    def __init__(self) -> None:
        self._depth = self._number = 0  # written by the calls' thread alone
        self._seen = self._looks = 0  # written by the looking thread alone

    def __enter__(self) -> None:
        self._number += 1
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._number += 1
        self._depth -= 1

    def stuck(self) -> bool:
        """A look. Whether the call under way was already so STUCK_LOOKS looks ago, as librdkafka 2.16's for offsets may be for
        ever once the broker was restarted under it."""
        if self._number != self._seen:
            self._seen, self._looks = self._number, 0
            return False
        self._looks += 1
        return self._depth > 0 and self._looks >= STUCK_LOOKS


class HumanNeeded(RuntimeError):
    """A condition that waiting does not mend; the message says what and what to do."""


class Abort(Exception):
    """The open transaction cannot be committed; aborting it is certain to undo it."""


class Indefinite(Exception):
    """What became of the transaction, or of the producer, is not known."""


class Stopped(Exception):
    """The process was asked to stop during a step; the open transaction is left for the next start to end."""


def is_fatal(error: KafkaError) -> bool:
    """Whether the client that reported this will never work again."""
    return error.fatal() or error.code() == KafkaError._FATAL


def check(error: KafkaError) -> None:
    """Return when a consumer's error passes by itself (a broker restarts, a group rebalances); else raise HumanNeeded."""
    if error.code() in PASSING or (error.retriable() and not is_fatal(error)):
        return
    if error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
        raise HumanNeeded(f"not allowed to read: {error.str()}: run `bus up`, which sets the access rights")
    if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        raise HumanNeeded("the broker refuses this user's password: run `bus up`, which sets users and passwords")
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        raise HumanNeeded(f"a topic is missing: {error.str()}: run `bus up`, which creates the topics")
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        raise HumanNeeded(f"records that were not read yet are gone: {error.str()}: check the topic's retention")
    raise KafkaException(error)


def ignore(error: KafkaError) -> None:
    """For `error_cb`: connection errors are told there and mended by librdkafka; what is not comes with the records."""


def text(error: BaseException) -> str:
    """A Kafka error in words, without a record's contents."""
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return f"{error.args[0].name()}: {error.args[0].str()}"
    return str(error)


def place(error: BaseException) -> str:
    """The kind of an error and where it was raised: all that may be said of one that could quote a record."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else "nowhere"
    return f"{type(error).__name__} at {where}"
