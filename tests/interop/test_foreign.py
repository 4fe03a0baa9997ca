"""Clients that are installed from their registries for this: `make interop`. Each is unmodified and has its own environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bus.platform import jars
from tests.interop.trial import CLIENTS, trial
from tests.registry.served import Served

pytestmark = pytest.mark.skipif(os.environ.get("LT_INTEROP") != "1", reason="make interop: installs clients of four languages")
INSTALL_SECONDS = 500
PYTHON_VERSIONS = ("2.13.2", "2.16.0")
"""Before and after the client asks for associations first."""


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("interop")


def install(command: Sequence[str | Path], cwd: Path) -> None:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-4_000:]


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is needed: install it, then `make interop` again")
    return found


@pytest.mark.parametrize("version", PYTHON_VERSIONS)
def test_confluent_kafka_for_python(registry: Served, workshop: Path, version: str) -> None:
    uv, place = Path(sys.executable).with_name("uv"), workshop / f"python-{version}"
    python = place / "bin" / "python"
    install([uv, "venv", "--quiet", "--python", sys.executable, place], workshop)
    install([uv, "pip", "install", "--quiet", "--python", python, f"confluent-kafka[avro,schemaregistry]=={version}"], workshop)
    saw = trial(registry, f"python-{version}", [python, CLIENTS / "confluent_python.py"])
    assert saw["client"] == version


def test_kafkajs_with_its_registry_client(registry: Served, workshop: Path) -> None:
    place = workshop / "node"
    shutil.copytree(CLIENTS / "node", place)
    install([tool("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts"], place)
    trial(registry, "node", [tool("node"), "client.mjs"], place)


def test_confluents_java_client(registry: Served) -> None:
    found = jars.fetch(lock=CLIENTS / "java" / "client.lock.toml")
    classpath = os.pathsep.join(map(str, [*found, *jars.fetch()]))
    trial(registry, "java", [tool("java"), "-cp", classpath, CLIENTS / "java" / "Client.java"])


def test_franz_go_for_go(registry: Served, workshop: Path) -> None:
    place = workshop / "go"
    shutil.copytree(CLIENTS / "go", place)
    install([tool("go"), "build", "-o", "client", "."], place)
    trial(registry, "go", [place / "client"], place)
