"""The plan of a redriving: what would become of each letter and whether it may go through, bound to offsets and digests."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import yaml

from bus.letters import reading
from bus.letters.letter import Letter, LetterError, Place, remedy
from bus.letters.reading import Connection, InputReader
from bus.letters.rows import Candidate, Newer, Rows
from bus.letters.today import Becomes, Today

VERSION = 1
REDRIVE, SUPERSEDED, DONE, NOT_MENDABLE = "redrive", "superseded", "done", "not_redrivable"
MOST_LETTERS = 100_000
"""In one plan. Letters are kept in memory with their values while it is made: narrow it with --dataset or --code."""
MOST_BYTES = 268_435_456


@dataclass(frozen=True, slots=True)
class Item:
    """One letter. `digest`: of key and value; `reason`: why it is not to be redriven."""

    place: Place
    source: str
    lane: int
    offset: int
    code: str
    event_id: str
    digest: str
    action: str
    reason: str
    becomes: Mapping[str, Any] | None

    def told(self) -> dict[str, Any]:
        return {
            "letter": str(self.place),
            "source": {"topic": self.source, "lane": self.lane, "offset": self.offset},
            "code": self.code,
            "event_id": self.event_id,
            "digest": self.digest,
            "action": self.action,
            "reason": self.reason,
            "becomes": self.becomes,
        }

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        source = told["source"]
        place = Place.parse(told["letter"])
        texts = [told[name] for name in ("code", "event_id", "digest", "action", "reason")]
        if not all(isinstance(text, str) for text in (source["topic"], *texts)):
            raise TypeError
        code, event_id, digest, action, reason = texts
        return cls(
            place,
            source["topic"],
            int(source["lane"]),
            int(source["offset"]),
            code,
            event_id,
            digest,
            action,
            reason,
            told["becomes"],
        )


@dataclass(frozen=True, slots=True)
class Plan:
    made_at: str
    policy: str
    """Digest of the agreements it was made under."""
    register_asked: bool
    """Whether verdicts are by the register's replica; else everybody counts as not found."""
    items: tuple[Item, ...]

    def content(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "version": VERSION,
            "made_at": self.made_at,
            "policy": self.policy,
            "register_asked": self.register_asked,
            "letters": [item.told() for item in self.items],
        }
        return body | {"plan": _digest(body)}

    def chosen(self) -> list[Item]:
        """In the order in which they go through: as they came, lane by lane."""
        return sorted((i for i in self.items if i.action == REDRIVE), key=lambda i: (i.source, i.lane, i.offset))

    def write(self, path: Path) -> None:
        text = yaml.safe_dump(self.content(), sort_keys=False, allow_unicode=True)
        try:
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(text, encoding="utf-8")
        except FileExistsError:
            raise LetterError(f"{path} is there already: give another name, or remove it") from None
        except OSError as error:
            raise LetterError(f"cannot write {path}: {error.strerror}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises LetterError for what is no plan, or one that was altered."""
        try:
            found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
            digest = found.pop("plan")
            items = tuple(Item.of(told) for told in found["letters"])
            made = cls(str(found["made_at"]), str(found["policy"]), bool(found["register_asked"]), items)
        except OSError as error:
            raise LetterError(f"cannot read {path}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError):
            raise LetterError(f"{path} is no plan: `bus dead redrive --dry-run --out PLAN` makes one") from None
        if found.get("version") != VERSION or digest != _digest(found):
            raise LetterError(f"{path} was altered, or is of another version: make a new plan (`bus dead redrive --dry-run`)")
        return made

    @property
    def digest(self) -> str:
        return str(self.content()["plan"])


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def make(
    connection: Connection,
    names: Sequence[str],
    now: Today,
    code: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> Plan:
    """`names`: dead topics; `code`: letters of this one only. Raises LetterError."""
    done = reading.redriven(connection)
    found = list(_bounded(one for one in reading.letters(connection, names)))
    progress(f"{len(found):,} dead letters read")
    items = judge(connection, found, [one for one in found if code in ("", one.code)], done, now, progress)
    made_at = datetime.fromtimestamp(now.now_ms / 1000, UTC).isoformat(timespec="seconds")
    return Plan(made_at, now.policy.digest, now.verified, tuple(items))


def _bounded(found: Iterable[Letter]) -> Iterable[Letter]:
    held = 0
    for count, one in enumerate(found):
        held += len(one.value or b"")
        if count >= MOST_LETTERS or held > MOST_BYTES:
            raise LetterError(
                f"more than {MOST_LETTERS:,} dead letters, or {MOST_BYTES >> 20} MiB: plan one dataset at a time (--dataset)"
            )
        yield one


def judge(
    connection: Connection,
    every: Sequence[Letter],
    asked: Sequence[Letter],
    done: Mapping[str, Any],
    now: Today,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Item]:
    """`every`: all letters of the datasets concerned, by which it is known what was not processed; `asked`: those to judge."""
    becomes: dict[Place, Becomes] = {}
    reasons: dict[Place, tuple[str, str]] = {}
    candidates: dict[str, list[Candidate]] = defaultdict(list)
    rows: dict[str, Rows] = {}
    for letter in asked:
        reasons[letter.place] = found = _refusal(letter, done, now, becomes)
        if found[0] == REDRIVE:
            if letter.source not in rows:
                rows[letter.source] = Rows(now.datasets[letter.dataset], now.found)
            candidates[letter.source].append(Candidate(letter, rows[letter.source].stand(letter.value)))
    for source, listed in candidates.items():
        progress(f"looking in {source} for what came after {len(listed):,} letters")
        newer = Newer(rows[source], {one.origin for one in every if one.source == source and one.origin})
        newer.add(listed)
        _scan(connection, source, listed, newer)
        for one in listed:
            if one.newer:
                action = SUPERSEDED if one.newer.startswith("superseded") else DONE
                reasons[one.letter.place] = action, one.newer
    return [_item(letter, *reasons[letter.place], becomes.get(letter.place)) for letter in asked]


def _refusal(letter: Letter, done: Mapping[str, Any], now: Today, becomes: dict[Place, Becomes]) -> tuple[str, str]:
    """(action, reason), as far as the letter itself tells."""
    record = done.get(str(letter.place))
    if record is not None:
        return DONE, f"redriven before: its copy stands at lane {record['lane']} offset {record['offset']}"
    if letter.origin is None or letter.dataset not in now.datasets or letter.value is None:
        return NOT_MENDABLE, remedy(letter)
    if letter.source != now.datasets[letter.dataset].topic:
        return NOT_MENDABLE, f"it says that it came from {letter.source!r}, which is not the topic of {letter.dataset}"
    found = becomes[letter.place] = now.becomes(letter)
    if found.code:
        return NOT_MENDABLE, f"it would be a dead letter again ({found.code}): {remedy(letter)}"
    return REDRIVE, ""


def _scan(connection: Connection, source: str, listed: Sequence[Candidate], newer: Newer) -> None:
    """All lanes from the first original on: a row can have gone to another person, and with it to another lane."""
    origins = [one.letter.origin for one in listed if one.letter.origin]
    starts = reading.starts(connection, source, origins, min(one.letter.origin_ms or one.letter.at_ms for one in listed))
    reader = InputReader(connection, source, starts)
    try:
        for message in reader.to_end():
            newer.look(message)
    finally:
        reader.close()


def _item(letter: Letter, action: str, reason: str, becomes: Becomes | None) -> Item:
    lane, offset = letter.origin or (-1, -1)
    told = becomes.told() if becomes is not None else None
    event_id = letter.event_id.hex()
    return Item(letter.place, letter.source, lane, offset, letter.code, event_id, letter.digest, action, reason, told)
