"""The embedded Kafka broker: one KRaft node on 127.0.0.1. Nobody comes in without a password, nothing passes without a rule.

Everything it keeps lies in <home>/kafka; it runs with that as its working directory and is told relative paths only,
because Java's properties files and URLs do not take every letter that a directory's name can have.
"""

from __future__ import annotations

import base64
import os
import re
import secrets as randomness
import shutil
import subprocess
import time
from pathlib import Path

import psutil

from bus.config import ConfigError, Settings
from bus.platform import jars, java, ports, processes, roster, secrets, stopping

NAME = roster.KAFKA
START_SECONDS = 120.0
_LOOKS = 20
"""The controller alone looks every 63 ms for brokers that have been silent for 500; after so many there is none to be found."""
_FENCED = re.compile(r"Read-write operation (maybeFenceStaleBroker\(\d+\)) will.* Processed \1 in", re.DOTALL)
"""What it found is part of the metadata log: with DEBUG it says of a write that it is processed once that is so."""
_STOP_SECONDS = 10.0
_ADMIN = "kafka-admin"
_CONTROLLER = "kafka-controller"
_FORMATTED = Path("data") / "meta.properties"
_UTF8 = {"LC_ALL": "C.UTF-8"}
"""Java takes the letters of file names from the locale."""

_JVM = ("-XX:+UseSerialGC",)
"""One small heap on a machine shared with everything else: no threads of a collector beside it."""
_SHORT_LIVED = "-XX:TieredStopAtLevel=1"
"""For a process that ends before the second compiler pays."""

CONTROLLERS_DOOR = """\
log.dirs=data
controller.listener.names=CONTROLLER
sasl.mechanism.controller.protocol=PLAIN
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.controller.plain.sasl.jaas.config={plain} required username="controller" \\
  password="{secret}" user_controller="{secret}";

# who may do what: nothing that no rule allows
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:controller
"""
"""Of every node: how a controller is reached, and by whom. `secret`: its password."""

_NODE = (
    CONTROLLERS_DOOR
    + """\
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
"""
)

_PROPERTIES = (
    _NODE
    + """\
process.roles=broker,controller
allow.everyone.if.no.acl.found=false
auto.create.topics.enable=false

listeners=SASL_PLAINTEXT://127.0.0.1:{kafka},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_PLAINTEXT://127.0.0.1:{kafka}
inter.broker.listener.name=SASL_PLAINTEXT
listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT

# who may come in: users are in the cluster's own metadata, except the broker itself at the controller's door
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={scram} required username="admin" password="{admin}";

# one node
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# workers that start together begin together: the first one would take all lanes, and give half of them back a second later
group.initial.rebalance.delay.ms=500

# nothing is forgotten unless a topic says so; a consumer group keeps its place while the bus is down for long
log.retention.ms=-1
offsets.retention.minutes=5256000
transaction.max.timeout.ms=900000
message.max.bytes=8388608
replica.fetch.max.bytes=8388608

# small: the defaults reserve memory, disk and threads for a machine that does nothing else
num.io.threads=3
num.network.threads=2
log.cleaner.dedupe.buffer.size=16777216
log.index.size.max.bytes=2097152
log.segment.bytes=268435456
num.recovery.threads.per.data.dir=2

# nobody takes over from it: it neither hands over its partitions when it stops nor counts as gone when it is slow,
# for without a leader the ends of transactions are lost (`_fence`)
controlled.shutdown.enable=false
broker.session.timeout.ms=86400000
"""
)

_CONTROLLER_PROPERTIES = (
    _NODE
    + """\
process.roles=controller
listeners=CONTROLLER://127.0.0.1:{controller}
listener.security.protocol.map=CONTROLLER:SASL_PLAINTEXT
broker.heartbeat.interval.ms=100
broker.session.timeout.ms=500
controller.quorum.append.linger.ms=0
"""
)

_LOGGING = """\
status = error
shutdownHook = disable
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = ../log/kafka.log
appender.file.filePattern = ../log/kafka.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
appender.file.policies.type = SizeBasedTriggeringPolicy
appender.file.policies.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
logger.startup.name = kafka.server.KafkaRaftServer
logger.startup.level = info
"""

_CONTROLLER_LOGGING = """\
status = error
shutdownHook = disable
appender.grave.type = Console
appender.grave.name = grave
appender.grave.layout.type = PatternLayout
appender.grave.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
appender.steps.type = Console
appender.steps.name = steps
appender.steps.layout.type = PatternLayout
appender.steps.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
appender.steps.filter.each.type = RegexFilter
appender.steps.filter.each.regex = .*maybeFenceStaleBroker.*
rootLogger.level = warn
rootLogger.appenderRef.grave.ref = grave
rootLogger.appenderRef.grave.level = warn
logger.controller.name = org.apache.kafka.controller.QuorumController
logger.controller.level = debug
logger.controller.appenderRef.steps.ref = steps
"""


def start(settings: Settings) -> psutil.Process:
    """A broker that answers; returns the running one when there is one. Raises ConfigError with cause and remedy."""
    if (found := processes.running(settings, NAME)) is not None:
        wait(settings, found)
        return found
    child = launch(settings)
    wait(settings, child)
    return child


def launch(settings: Settings) -> psutil.Process:
    """Starts the broker without waiting for it. Where there was one before, that first counts as gone, in about 3 s."""
    processes.make_home(settings)
    stopping.end(settings, [roster.CONTROLLER], _STOP_SECONDS)  # of one who was killed meanwhile
    chosen = ports.ensure(settings)
    ports.require_free(settings, chosen.kafka, "Kafka")
    ports.require_free(settings, chosen.controller, "Kafka's controller")
    home = settings.home / "kafka"
    _configure(settings, chosen, home)
    command = _java(settings)
    if (home / _FORMATTED).exists():
        _fence(settings, home)
    else:
        _format(settings, command, home)
    return processes.spawn(settings, NAME, [*command, "kafka.Kafka", "server.properties"], env=_UTF8, cwd=home)


def wait(settings: Settings, process: psutil.Process) -> None:
    """Until the broker takes connections, which it does only once its metadata is loaded. Raises ConfigError."""
    port = ports.ensure(settings).kafka
    deadline = time.monotonic() + START_SECONDS
    while not ports.answers(port):
        if processes.ended(process):
            told = " | ".join(processes.last_lines(settings, NAME))
            raise ConfigError(f"Kafka ended while starting: see {settings.home}/log/kafka.log: {told}")
        if time.monotonic() > deadline:
            raise ConfigError(
                f"Kafka did not answer on port {port} within {START_SECONDS:.0f} s: see {settings.home}/log/kafka.log"
            )
        time.sleep(0.05)


def _fence(settings: Settings, home: Path) -> None:
    """The controller alone, until it counts the broker of before as gone and all partitions as without a leader.

    Otherwise a lone Kafka 4.3.1 begins with the metadata of before, by which it leads everything, and loads its transactions;
    then its new registration takes all leaders away for a moment. The markers that a transaction was owed when the broker died,
    and that are to be written in that moment, never are: `TransactionMarkerChannelManager` takes a partition without a leader
    for a deleted one, and notes the transaction as complete. Whoever reads committed records waits there for ever.

    Raises ConfigError.
    """
    command = _java(settings, "controller-log4j2.properties", _SHORT_LIVED)
    child = processes.spawn(settings, roster.CONTROLLER, [*command, "kafka.Kafka", "controller.properties"], env=_UTF8, cwd=home)
    try:
        _until_fenced(settings, child)
    finally:
        stopping.end(settings, [roster.CONTROLLER], _STOP_SECONDS)


def _until_fenced(settings: Settings, child: psutil.Process) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and not processes.ended(child):
        told = processes.first_words(settings, roster.CONTROLLER)
        if _FENCED.search(told) or told.count("Processed maybeFenceStaleBroker") >= _LOOKS:
            return
        time.sleep(0.02)
    lines = processes.first_words(settings, roster.CONTROLLER).splitlines()
    told = " | ".join([line for line in lines if " DEBUG " not in line][-5:])
    raise ConfigError(f"Kafka's controller did not start: see {settings.home}/log/{roster.CONTROLLER}.log: {told}")


def _java(settings: Settings, logging: str = "log4j2.properties", *more: str) -> list[str]:
    classpath = ":".join(str(path) for path in jars.fetch())
    options = [f"-Xmx{settings.kafka.heap_mb}m", *_JVM, "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
    return [str(java.find()), *options, *more, f"-Dlog4j2.configurationFile={logging}", "-cp", classpath]


def _configure(settings: Settings, chosen: ports.Ports, home: Path) -> None:
    module = "org.apache.kafka.common.security"
    filled = {
        "kafka": chosen.kafka,
        "controller": chosen.controller,
        "scram": f"{module}.scram.ScramLoginModule",
        "plain": f"{module}.plain.PlainLoginModule",
        "admin": secrets.password(settings, _ADMIN),
        "secret": secrets.password(settings, _CONTROLLER),
    }
    for name, text in (("server", _PROPERTIES), ("controller", _CONTROLLER_PROPERTIES)):
        secrets.write(home / f"{name}.properties", text.format(**filled).encode())
    (home / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
    (home / "controller-log4j2.properties").write_text(_CONTROLLER_LOGGING, encoding="utf-8")


def _format(settings: Settings, command: list[str], home: Path) -> None:
    """Makes the data directory with the first user. The arguments go through a file: others can read a command line."""
    shutil.rmtree(home / "data", ignore_errors=True)  # a format that was interrupted
    cluster = base64.urlsafe_b64encode(randomness.token_bytes(16)).decode().rstrip("=")
    scram = f"SCRAM-SHA-512=[name=admin,password={secrets.password(settings, _ADMIN)}]"
    arguments = home / "format.args"
    words = [
        "kafka.tools.StorageTool",
        "format",
        "--config",
        "server.properties",
        "--cluster-id",
        f"x{cluster[1:]}",
        "--add-scram",
        scram,
    ]
    secrets.write(arguments, "\n".join(words).encode())
    try:
        subprocess.run(
            [*command, "@format.args"],
            cwd=home,
            env={**os.environ, **_UTF8},
            check=True,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
    except subprocess.SubprocessError as error:
        told = re.sub(r"password=[^\]]*", "password=…", str(getattr(error, "stderr", "") or error))
        raise ConfigError(f"Kafka's storage in {home} could not be formatted: {told.strip()[-500:]}") from None
    finally:
        arguments.unlink(missing_ok=True)
