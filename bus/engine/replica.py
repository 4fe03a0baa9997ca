"""The register replica: person key -> packed register record, in LMDB under home/replica, memory-mapped by every worker.

One process writes (bus.engine.register), any number read. Records and the offsets they came from are written in one LMDB
transaction, so a killed writer resumes exactly where it stopped. The file can always be rebuilt from the register's topic:
one that cannot be opened, or that was filled from another topic or with another packing, is replaced and filled again.

Each filling has a directory of its own, home/replica/<number>, and the link `current` says which one counts: a reader either
has a whole one mapped or notices that the link leads elsewhere.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

DIRECTORY = "replica"
CURRENT = "current"
MAP_BYTES = 64 << 30
"""Address space, not disk or memory: the file is as long as its contents. Room for some 100 million people."""
MAX_READERS = 126
_DATA, _WRITER = "data.mdb", "writer.lock"
_COPY_RECORDS = 5_000
_PEOPLE, _META = b"people", b"meta"
_IDENTITY, _READY, _LOADING, _LANE = b"identity", b"ready", b"loading", b"lane:"
_OFFSET = struct.Struct(">Q")
_BROKEN = (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PageNotFoundError, lmdb.PanicError)

Get = Callable[[bytes], bytes | None]


class ReplicaError(RuntimeError):
    """The replica cannot be used; the message says why and what to do."""


class ReplicaWriter:
    """The one writer. `identity` names what the records are made of: topic incarnation, lanes, packing.

    The first fill is not synced to disk, which makes it three times as fast: a killed process loses nothing by that, and
    what a crash of the whole machine (another boot id) may have torn is filled again. `finish_load` writes it out packed,
    half the size that random insertion leaves behind; from then on every commit is synced.
    Raises ReplicaError when another process writes here.
    """

    def __init__(self, home: Path, identity: bytes, map_bytes: int = MAP_BYTES) -> None:
        self._root = home / DIRECTORY
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._claim = _claim(self._root / _WRITER)
        self._identity, self._map_bytes, self._boot = identity, map_bytes, boot_id()
        self.rebuilt = False
        """Whether what was there could not be used, so that everything is read again."""
        self.loading = True
        self._env: Any = None
        if not self._resume():
            self.empty()

    def _resume(self) -> bool:
        """Open what is there; False when it cannot be used."""
        path = self._root / CURRENT
        if not (path / _DATA).exists():
            return False
        try:
            self._attach(path.resolve(), sync=True)
        except _BROKEN:
            return False
        with self._env.begin(db=self._meta) as txn:
            identity, loading = txn.get(_IDENTITY), txn.get(_LOADING)
        if identity != self._identity or loading not in (None, self._boot):
            return False
        self.loading = loading is not None
        if self.loading:
            self._attach(path.resolve(), sync=False)
        self._env.reader_check()
        return True

    def _attach(self, path: Path, sync: bool) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None
        self._env, self._people, self._meta = _open_for_writing(path, self._map_bytes, sync)

    def _next_directory(self) -> Path:
        taken = [int(p.name) for p in self._root.iterdir() if p.name.isdigit()]
        made = self._root / str(max(taken, default=0) + 1)
        made.mkdir(mode=0o700)
        return made

    def _switch(self, path: Path) -> None:
        """Let `current` lead to this directory, and remove the others; who has one of them mapped keeps it until it looks."""
        link = self._root / f"{CURRENT}.part"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        link.replace(self._root / CURRENT)
        for other in self._root.iterdir():
            if other.name.isdigit() and other.name != path.name:
                shutil.rmtree(other, ignore_errors=True)

    def empty(self) -> None:
        """Forget everything, to be filled again from the first offset."""
        made = self._next_directory()
        self._attach(made, sync=False)
        with self._env.begin(write=True, db=self._meta) as txn:
            txn.put(_IDENTITY, self._identity)
            txn.put(_LOADING, self._boot)
        self._switch(made)
        self.rebuilt = self.loading = True

    def finish_load(self) -> None:
        """Bring the first fill to disk, compact; from here on every commit is synced. Raises ReplicaError on a full disk."""
        if not self.loading:
            return
        made = self._next_directory()
        try:
            self._copy_packed(made)
        except (lmdb.Error, OSError) as error:
            shutil.rmtree(made, ignore_errors=True)
            raise ReplicaError(
                f"the register replica cannot be written to {self._root}: free disk space, then start again"
            ) from error
        self._attach(made, sync=True)
        self._switch(made)
        self.loading = False

    def _copy_packed(self, made: Path) -> None:
        """All records in key order, so that pages are full; random insertion leaves a third of each empty."""
        env, people, meta = _open_for_writing(made, self._map_bytes, sync=False)
        try:
            with self._env.begin(db=self._people) as source:
                records = source.cursor().iternext()
                while chunk := list(itertools.islice(records, _COPY_RECORDS)):
                    with env.begin(write=True) as txn, txn.cursor(db=people) as cursor:
                        cursor.putmulti(chunk, append=True)
            with self._env.begin(db=self._meta) as source, env.begin(write=True, db=meta) as txn:
                for key, value in source.cursor().iternext():
                    if key != _LOADING:
                        txn.put(key, value)
            env.sync(True)
        finally:
            env.close()

    def offsets(self) -> dict[int, int]:
        """Lane -> next offset to read; a lane never read is absent."""
        return _offsets(self._env, self._meta)

    def apply(self, people: Mapping[bytes, bytes | None], offsets: Mapping[int, int]) -> None:
        """Put (or, where the value is None, remove) these people and note the lanes' next offsets, all or nothing.

        Raises ReplicaError when the disk or the map is full.
        """
        # In key order neighbouring people share pages, which halves the cost of a large batch.
        puts = sorted((k, v) for k, v in people.items() if v is not None)
        try:
            with self._env.begin(write=True) as txn:
                if puts:
                    with txn.cursor(db=self._people) as cursor:
                        cursor.putmulti(puts, overwrite=True)
                for key in (k for k, v in people.items() if v is None):
                    txn.delete(key, db=self._people)
                for lane, offset in offsets.items():
                    txn.put(_LANE + b"%d" % lane, _OFFSET.pack(offset), db=self._meta)
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise ReplicaError(f"the register replica in {self._root} cannot grow: free disk space, then start again") from error

    def set_ready(self, ready: bool) -> None:
        """Tell readers whether the replica is complete enough to verify against."""
        with self._env.begin(write=True, db=self._meta) as txn:
            if ready:
                txn.put(_READY, b"1")
            else:
                txn.delete(_READY)

    def people(self) -> int:
        with self._env.begin() as txn:
            return int(txn.stat(self._people)["entries"])

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        os.close(self._claim)


class ReplicaReader:
    """The replica as a worker sees it. Raises ReplicaError at the first use when there is none that can be read yet."""

    def __init__(self, home: Path) -> None:
        self._current = home / DIRECTORY / CURRENT
        self._env: Any = None
        self._people: Any = None
        self._meta: Any = None
        self._inode = 0

    def ready(self) -> bool:
        """Whether it exists, is whole and says that it is complete. Reopens it when the writer had to begin a new file."""
        if self._env is None or self.moved():
            self.close()
            try:
                self._open()
            except (lmdb.Error, OSError):
                self.close()
                return False
        with self._env.begin(db=self._meta) as txn:
            return bool(txn.get(_READY) == b"1")

    def offsets(self) -> dict[int, int]:
        """Lane -> next offset that the writer will read; a lane never read is absent. `ready` comes first."""
        return _offsets(self._env, self._meta)

    def moved(self) -> bool:
        """Whether the file mapped here is no longer the one in the directory."""
        try:
            return (self._current / _DATA).stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def _open(self) -> None:
        path = self._current.resolve()
        inode = (path / _DATA).stat().st_ino
        # As much is mapped as the writer may ever fill: LMDB takes what the file has now, and refuses it once it has grown.
        # Look-ups are random: reading ahead would map pages nobody asked for into every worker's memory.
        self._env = lmdb.open(str(path), map_size=MAP_BYTES, readonly=True, max_dbs=2, readahead=False, max_readers=MAX_READERS)
        _check_length(self._env, path)
        self._people = self._env.open_db(_PEOPLE, create=False)
        self._meta = self._env.open_db(_META, create=False)
        self._inode = inode

    @contextmanager
    def view(self) -> Iterator[Get]:
        """`get` of one consistent moment. Keep it short: while it is open the writer cannot reuse pages."""
        if self._env is None:
            raise ReplicaError("the register replica is not open: `ready` comes first")
        with self._env.begin(db=self._people) as txn:
            yield txn.get

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = None


def _offsets(env: Any, meta: Any) -> dict[int, int]:
    with env.begin(db=meta) as txn:
        cursor = txn.cursor()
        found = {}
        for key, value in cursor.iternext() if cursor.set_range(_LANE) else ():
            if key.startswith(_LANE):
                found[int(key[len(_LANE) :])] = _OFFSET.unpack(value)[0]
        return found


def _claim(path: Path) -> int:
    """A lock that ends with the process, by whatever death."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ReplicaError(f"another register process already writes {path.parent}: stop it first") from None
    return handle


def boot_id() -> bytes:
    """What changes with every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


def _open_for_writing(path: Path, map_bytes: int, sync: bool) -> tuple[Any, Any, Any]:
    # Without the second sync of a commit a power failure can lose the last transaction, never tear one; it is read again.
    env = lmdb.open(
        str(path), map_size=map_bytes, max_dbs=2, sync=sync, metasync=False, readahead=False, max_readers=MAX_READERS, mode=0o600
    )
    try:
        _check_length(env, path)
        return env, env.open_db(_PEOPLE), env.open_db(_META)
    except BaseException:
        env.close()
        raise


def _check_length(env: Any, path: Path) -> None:
    """A file shorter than its own account of itself would end this process with SIGBUS, not with an error."""
    if (path / _DATA).stat().st_size < (env.info()["last_pgno"] + 1) * env.stat()["psize"]:
        raise lmdb.CorruptedError("the file is shorter than its pages")
