"""Makes .venv with everything locked in uv.lock, from nothing but this Python. Run by `make setup`; quick when up to date.

    python3 tools/bootstrap.py [--group dev]

Uses the standard library only, and no ensurepip: where Debian's python3-venv is missing, pip's wheel is fetched instead.
Talk goes to stderr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "lien-thong.json"
UV = "uv==0.13.9"
PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
PIP_INDEX = "https://pypi.org/simple/pip/"
LEAST_PYTHON = (3, 11)
TIMEOUT_SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description="Make .venv from uv.lock.")
    parser.add_argument("--group", action="append", default=[], help="also a dependency group, such as dev")
    groups: list[str] = sorted(parser.parse_args().group)
    if sys.version_info < LEAST_PYTHON:
        fail("Python 3.11 or newer is needed, this is older: say which one to use, as in `make setup PYTHON=python3.12`")
    wanted, stamp = fingerprint(), read_stamp()
    if not is_here():
        make_venv()
    elif stamp.get("wanted") == wanted and set(groups) <= set(stamp["groups"]) and (VENV / "bin" / "bus").exists():
        return
    install_uv()
    groups = sorted({*groups, *stamp.get("groups", [])})
    sync(groups)
    STAMP.write_text(json.dumps({"wanted": wanted, "groups": groups}), encoding="utf-8")
    say("Ready: .venv/bin/bus")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fail(text: str) -> None:
    say(f"setup: {text}")
    raise SystemExit(1)


def fingerprint() -> str:
    """Changes with whatever the environment is made from."""
    found = hashlib.sha256(sys.version.encode())
    for path in (ROOT / "uv.lock", ROOT / "pyproject.toml", ROOT / "setup.py", *sorted((ROOT / "bus/engine/kernel").iterdir())):
        found.update(path.read_bytes())
    return found.hexdigest()


def read_stamp() -> dict[str, Any]:
    try:
        return dict(json.loads(STAMP.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def is_here() -> bool:
    """Whether there is an environment whose scripts point here: a directory that was moved or copied has none."""
    try:
        return str(VENV) in (VENV / "bin" / "activate").read_text(encoding="utf-8") and run_quietly(
            [str(VENV / "bin" / "python"), "--version"]
        )
    except OSError:
        return False


def make_venv() -> None:
    say(f"Making .venv with Python {sys.version.split()[0]}")
    shutil.rmtree(VENV, ignore_errors=True)
    venv.EnvBuilder(symlinks=True).create(VENV)


def install_uv() -> None:
    if (VENV / "bin" / "uv").exists() and run_quietly([str(VENV / "bin" / "uv"), "--version"]):
        return
    say(f"Installing {UV}")
    python = str(VENV / "bin" / "python")
    if run_quietly([python, "-m", "ensurepip", "--default-pip"]):
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV])
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel = fetch_pip(Path(scratch))
        run([python, f"{wheel}/pip", "install", "--quiet", "--disable-pip-version-check", UV])


def fetch_pip(directory: Path) -> Path:
    """pip's own wheel, which runs without being installed."""
    try:
        asked = urllib.request.Request(PIP_INDEX, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
        with urllib.request.urlopen(asked, timeout=TIMEOUT_SECONDS) as answer:
            url = next(file["url"] for file in json.load(answer)["files"] if file["filename"] == PIP_WHEEL)
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            content = answer.read()
    except (OSError, ValueError, StopIteration, KeyError) as error:
        fail(f"cannot fetch pip from PyPI ({error}): check the network, or install the package python3-venv, and run again")
    if hashlib.sha256(content).hexdigest() != PIP_SHA256:
        fail(f"{PIP_WHEEL} has another checksum than this file says: not used")
    path = directory / PIP_WHEEL
    path.write_bytes(content)
    return path


def sync(groups: list[str]) -> None:
    say("Installing the packages of uv.lock" + (f" with {', '.join(groups)}" if groups else ""))
    command = [str(VENV / "bin" / "uv"), "sync", "--frozen", "--inexact", "--project", str(ROOT)]
    for group in groups:
        command += ["--group", group]
    run(command)


def run(command: list[str]) -> None:
    environment = os.environ | {"UV_PROJECT_ENVIRONMENT": str(VENV), "UV_PYTHON_DOWNLOADS": "never", "UV_LINK_MODE": "copy"}
    environment.pop("VIRTUAL_ENV", None)
    if subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr, check=False).returncode != 0:
        fail(f"this failed: {' '.join(command)}; if the network was the reason, run again: it goes on where it stopped")


def run_quietly(command: list[str]) -> bool:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    main()
