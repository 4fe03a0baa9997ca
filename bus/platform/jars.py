"""Kafka's jars: resolved once by jgo into kafka.lock.toml, fetched from Maven Central by that list, checksums verified.

They are kept once per user in $XDG_CACHE_HOME/lien-thong/jars (default ~/.cache), so that several homes share them.
`python -m bus.platform.jars` resolves again and rewrites the lock file after a change of WANTED.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bus.config import ConfigError
from bus.platform import talk

if TYPE_CHECKING:
    import jgo.env
    import jgo.maven

KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
WANTED = ((KAFKA, False), (LOGGING, True))
"""log4j is raw: its own build manages an older Kafka."""
LOCK = Path(__file__).with_name("kafka.lock.toml")
_PARALLEL = 6
_ATTEMPTS = 3
_TIMEOUT_SECONDS = 30
_TYPICAL_BYTES, _HEAVY_BYTES = 950_000, {"rocksdbjni": 76_000_000}
"""What a jar weighs, for the progress bar only."""


@dataclass(frozen=True, slots=True)
class Locked:
    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.group}.{self.artifact}-{self.version}.jar"


def locked(lock: Path = LOCK) -> list[Locked]:
    """What a lock file lists. It has jgo's format; jgo itself is imported to download only, as that takes half a second."""
    document = tomllib.loads(lock.read_text(encoding="utf-8"))
    return [Locked(d["groupId"], d["artifactId"], d["version"], d["sha256"]) for d in document["dependencies"]]


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "lien-thong" / "jars"


def fetch(directory: Path | None = None, lock: Path = LOCK) -> list[Path]:
    """Paths of all jars of a lock file, downloading what is missing or damaged. Raises ConfigError when one cannot be had."""
    place = directory or cache()
    place.mkdir(parents=True, exist_ok=True)
    wanted = locked(lock)
    with _only_one(place):
        missing = [one for one in wanted if not _intact(place / one.file, one)]
        if missing:
            _download(missing, place)
    return [place / one.file for one in wanted]


def _intact(path: Path, one: Locked) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == one.sha256


@contextmanager
def _only_one(place: Path) -> Iterator[None]:
    """Two homes that start at the same time must not write the same files."""
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(missing: list[Locked], place: Path) -> None:
    counting = threading.Lock()
    expected = sum(_HEAVY_BYTES.get(one.artifact, _TYPICAL_BYTES) for one in missing)
    with talk.downloading(f"Downloading Kafka ({len(missing)} jars)", expected) as advance:

        def received(count: int) -> None:
            with counting:
                advance(count)

        with ThreadPoolExecutor(_PARALLEL) as pool:
            for _ in pool.map(lambda one: _download_one(one, place, received), missing):
                pass


def _download_one(one: Locked, place: Path, received: Callable[[int], None]) -> None:
    """jgo writes in place, so each try goes to a directory of its own and only a verified jar is moved out of it."""
    import requests

    reason = "its checksum differs from the lock file's"
    for _ in range(_ATTEMPTS):
        scratch = Path(tempfile.mkdtemp(dir=place, prefix="part-"))
        try:
            path = _context(scratch, received).project(one.group, one.artifact).at_version(one.version).artifact().resolve()
            if _intact(path, one):
                path.replace(place / one.file)
                return
        except (requests.RequestException, RuntimeError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    raise ConfigError(
        f"cannot download {one.group}:{one.artifact}:{one.version} from Maven Central: {reason}; check the network and run again"
    )


def _context(repository: Path, received: Callable[[int], None]) -> jgo.maven.MavenContext:
    """jgo with nothing of the user's own Maven settings or repository."""
    import jgo.maven

    @contextmanager
    def progress(_: str, __: int) -> Iterator[Callable[[int], None]]:
        yield received

    resolver = jgo.maven.PythonResolver(progress_callback=progress)
    return jgo.maven.MavenContext(resolver, repo_cache=repository, local_repos=[], timeout=_TIMEOUT_SECONDS)


def resolve(scratch: Path, name: str, wanted: Sequence[tuple[str, bool]]) -> jgo.env.LockFile:
    """A lock file: exact versions with the SHA-256 of each jar. `wanted`: (group:artifact:version, raw). Uses the network.

    What its own build manages (another version of Kafka, say) reaches nobody else from a raw one.
    """
    import jgo.env
    import jgo.parse

    context = _context(scratch, lambda _: None)
    dependencies = []
    for coordinate, raw in wanted:
        group, artifact, version = coordinate.split(":")
        parsed = jgo.parse.Coordinate(groupId=group, artifactId=artifact, version=version, scope="compile", raw=raw)
        dependencies.append(context.create_dependency(parsed))
    inputs, transitive = context.resolver.resolve(dependencies)
    return jgo.env.LockFile.from_resolved_dependencies([*inputs, *transitive], environment_name=name, min_java_version=17)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        resolve(Path(directory), "kafka", WANTED).save(LOCK)
