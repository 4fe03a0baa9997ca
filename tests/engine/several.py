"""A cluster of three brokers that are reached over TLS: what an agency's own Kafka is like, as far as one machine can have it."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import os
import random
import subprocess
import time
from pathlib import Path

import yaml
from confluent_kafka.admin import AdminClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from bus import access, config, platform
from bus.avro import dataset
from bus.engine import agreements
from bus.platform import broker, ports, processes, secrets
from bus.signatures import keys, log, statement
from bus.signatures.statement import Act, Statement

NODES = (1, 2, 3)
PATIENCE_SECONDS = 90.0
_SCRAM, _PLAIN = (f"org.apache.kafka.common.security.{name}LoginModule" for name in ("scram.Scram", "plain.Plain"))
_PROPERTIES = (
    broker.CONTROLLERS_DOOR
    + """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
inter.broker.listener.name=SASL_SSL
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:SASL_PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location=broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=authority.pem
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram} required username="admin" password="{secret}";
auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.num.partitions=1
message.max.bytes=8388608
num.io.threads=2
num.network.threads=2
log.cleaner.dedupe.buffer.size=16777216
log.index.size.max.bytes=2097152
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
"""
)


class Cluster:
    """`settings`: a home on it. Nothing runs before `start`."""

    def __init__(self, root: Path) -> None:
        self._home = root / ".bus"
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._keys: dict[str, ed25519.Ed25519PrivateKey] = {}
        found = ports.choose(2 * len(NODES), random.Random())
        self._ports = {node: (found[2 * node - 2], found[2 * node - 1]) for node in NODES}
        self._home.mkdir(parents=True)
        authority = self._home / "authority.pem"
        kafka = {
            "bootstrap": ",".join(f"127.0.0.1:{port}" for port, _ in self._ports.values()),
            "security_protocol": "SASL_SSL",
            "ssl_ca": str(authority),
            "replication": len(NODES),
            "lanes": 4,
            "heap_mb": 320,
        }
        (self._home / config.SETTINGS_FILE).write_text(
            yaml.safe_dump({"kafka": kafka, "parties": str(self._home / "their-keys")}), encoding="utf-8"
        )
        self.settings = config.load(self._home, env={})
        processes.make_home(self.settings)
        self._password = secrets.password(self.settings, "kafka-admin")
        pem = _certificates(authority)
        cluster = base64.urlsafe_b64encode(os.urandom(15)).decode()
        for node in NODES:
            self._make(node, authority, pem, f"xx{cluster}")

    def _make(self, node: int, authority: Path, pem: bytes, cluster: str) -> None:
        place = self._place(node)
        place.mkdir(parents=True)
        port, controller = self._ports[node]
        text = _PROPERTIES.format(
            node=node,
            voters=",".join(f"{n}@127.0.0.1:{c}" for n, (_, c) in self._ports.items()),
            port=port,
            controller=controller,
            scram=_SCRAM,
            plain=_PLAIN,
            secret=self._password,
        )
        secrets.write(place / "server.properties", text.encode())
        secrets.write(place / "broker.pem", pem)
        (place / "authority.pem").write_bytes(authority.read_bytes())  # Java does not take every letter that a path can have
        (place.parent / "log").mkdir()
        (place / "log4j2.properties").write_text(broker._LOGGING, encoding="utf-8")
        scram = f"SCRAM-SHA-512=[name=admin,password={self._password}]"
        words = [
            "kafka.tools.StorageTool",
            "format",
            "--config",
            "server.properties",
            "--cluster-id",
            cluster[:22],
            "--add-scram",
        ]
        subprocess.run([*broker._java(self.settings), *words, scram], cwd=place, check=True, capture_output=True, timeout=120)

    def _place(self, node: int) -> Path:
        return self._home / "nodes" / str(node) / "kafka"

    def start(self, *nodes: int) -> None:
        """Until all of them take part and every partition has all its replicas in sync."""
        for node in nodes or NODES:
            command = [*broker._java(self.settings), "kafka.Kafka", "server.properties"]
            with (self._place(node) / "out.log").open("ab") as log:
                self._running[node] = subprocess.Popen(command, cwd=self._place(node), stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._in_sync():
            assert time.monotonic() < deadline, f"the cluster is not whole: see {self._home}/nodes/*/out.log"
            time.sleep(0.2)

    def declare(self) -> None:
        """All that the files say, signed by all: on a cluster that is not the bus's own, no signature is made up."""
        platform.declare(self.settings)
        self.settings.parties.mkdir()
        signed = []
        for one in agreements.load(self.settings, dataset.load(self.settings.schemas)).values():
            for party in statement.parties(one):
                key = self._keys.setdefault(party, ed25519.Ed25519PrivateKey.generate())
                public = key.public_key().public_bytes(Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
                keys.own_file(self.settings, party).write_bytes(public)
                signed.append(statement.sign(Statement(Act.SIGN, one.id, one.grant_hash, party, 1), key))
        log.write(self.settings, signed)
        platform.declare(self.settings)

    def end(self, node: int, *, killed: bool) -> None:
        found = self._running.pop(node)
        found.kill() if killed else found.terminate()
        found.wait(60)

    def stop(self) -> None:
        for node in list(self._running):
            self.end(node, killed=True)

    def _in_sync(self) -> bool:
        if not all(ports.answers(port) for port, _ in self._ports.values()):
            return False
        found = AdminClient(access.confluent(self.settings, "admin") | {"log_level": 0}).list_topics(timeout=20)
        every = [partition for topic in found.topics.values() for partition in topic.partitions.values()]
        return len(found.brokers) == len(NODES) and all(len(one.isrs) == len(one.replicas) for one in every)


def _certificates(authority: Path) -> bytes:
    """Writes the authority's certificate; a broker's key and certificate, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "authority")])
    root = _certificate(name, name, key.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    authority.write_bytes(root.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "broker")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = _certificate(subject, name, own.public_key()).add_extension(address, critical=False).sign(key, hashes.SHA256())
    form = (Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return own.private_bytes(*form) + signed.public_bytes(Encoding.PEM)


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    today = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    made = made.serial_number(x509.random_serial_number())
    return made.not_valid_before(today - datetime.timedelta(days=1)).not_valid_after(today + datetime.timedelta(days=30))
