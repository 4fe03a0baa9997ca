"""YAML as nodes that remember their lines, so that every problem in an agreement file can say where it is.

Only what agreements need: mappings, sequences and plain text. Anchors and aliases are refused (a small file could
otherwise stand for a huge one), and so are repeated keys (the last one would silently win).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

MAX_FILE_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in one file; `line` counts from 1, 0 where the file as a whole is meant."""

    file: str
    line: int
    reason: str
    remedy: str

    def __str__(self) -> str:
        at = f"{self.file}:{self.line}" if self.line else self.file
        return f"{at}: {self.reason}\n    {self.remedy}"


@dataclass(frozen=True, slots=True)
class Item:
    """One node of a file: text, a list or a mapping, and the line it begins on."""

    line: int
    text: str | None = None
    items: tuple[Item, ...] | None = None
    entries: tuple[tuple[str, Item], ...] | None = None
    key_lines: tuple[int, ...] = ()

    def kind(self) -> str:
        if self.text is not None:
            return "text"
        return "a list" if self.items is not None else "a mapping"

    def named(self) -> Iterator[tuple[str, int, Item]]:
        """(key, line of the key, value) of a mapping, nothing for anything else."""
        for (name, value), line in zip(self.entries or (), self.key_lines, strict=True):
            yield name, line, value


def read(path: Path, problems: list[Problem]) -> Item | None:
    """The file's one document as an Item; None, with the reasons added to `problems`, when it cannot be read."""
    file = str(path)
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_FILE_BYTES:
            problems.append(
                Problem(file, 0, f"larger than {MAX_FILE_BYTES} bytes", "one agreement a file is never that long: split it")
            )
            return None
        text = raw.decode("utf-8")
        aliases = [e for e in yaml.parse(text) if isinstance(e, yaml.AliasEvent)]
        node = None if aliases else yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(file, 0, f"cannot be read: {error}", "make it a UTF-8 text file that this user may read"))
        return None
    except RecursionError:
        problems.append(Problem(file, 0, "nested too deeply", "an agreement needs four levels at most"))
        return None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or "not one YAML document"
        problems.append(
            Problem(file, mark.line + 1 if mark else 0, f"not YAML: {reason}", "look at indentation, quotes and colons")
        )
        return None
    problems.extend(
        Problem(file, _line(alias), "an alias (*name)", "write the value out: a reader must see what is granted")
        for alias in aliases
    )
    if aliases:
        return None
    if node is None:
        problems.append(Problem(file, 0, "empty", "see docs/agreements.md for what an agreement says"))
        return None
    return _item(node, file, problems)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _item(node: yaml.Node, file: str, problems: list[Problem]) -> Item:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Item(line, items=tuple(_item(child, file, problems) for child in node.value))
    if not isinstance(node, yaml.MappingNode):
        text = str(node.value)
        if any("\ud800" <= c <= "\udfff" for c in text):
            problems.append(Problem(file, line, "half a surrogate pair, which no text may hold", "write the character itself"))
        return Item(line, text=text)
    entries: dict[str, tuple[int, Item]] = {}
    for key, value in node.value:
        name, at = str(key.value), key.start_mark.line + 1
        if name in entries:
            problems.append(
                Problem(file, at, f"{name!r} stands here twice", f"keep one (the first is on line {entries[name][0]})")
            )
        else:
            entries[name] = (at, _item(value, file, problems))
    return Item(line, entries=tuple((n, v) for n, (_, v) in entries.items()), key_lines=tuple(at for at, _ in entries.values()))
