"""Our verdicts beside those of Apache Avro for Java, whose checker Confluent's registry uses, over thousands of random pairs.

Differences that are meant, each with its reason, are in `explained`; any other fails. `make verdicts` runs it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from bus.contracts.compatibility import parse, reads
from bus.contracts.parsing import InvalidSchema
from bus.platform import jars, java
from tests.contracts.pairs import nodes, pairs

HERE = Path(__file__).with_name("java")
EXAMPLES = int(os.environ.get("LT_VERDICTS", "0"))
pytestmark = pytest.mark.skipif(not EXAMPLES, reason="needs a JDK and a minute: make verdicts")

Ask = Callable[[Any, Any], str]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """One Java that answers all questions."""
    classes = tmp_path_factory.mktemp("classes")
    path = ":".join(map(str, [classes, *jars.fetch(lock=HERE / "avro.lock.toml")]))
    subprocess.run(["javac", "-cp", path, "-d", str(classes), str(HERE / "Verdicts.java")], check=True)
    child = subprocess.Popen(
        [str(java.find()), "-cp", path, "Verdicts"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert child.stdin
    assert child.stdout
    writing, reading = child.stdin, child.stdout

    def one(reader: Any, writer: Any) -> str:
        writing.write(f"{json.dumps(reader)}\t{json.dumps(writer)}\n")
        writing.flush()
        return reading.readline().strip()

    yield one
    writing.close()
    assert child.wait(10) == 0


def ours(reader: Any, writer: Any) -> str:
    try:
        read = parse(reader)
    except InvalidSchema as error:
        return f"INVALID_READER {error.reason}"
    try:
        written = parse(writer)
    except InvalidSchema as error:
        return f"INVALID_WRITER {error.reason}"
    found = reads(read, written)
    return "INCOMPATIBLE " + "; ".join(f"{r.type} {r.location} {r.message}" for r in found) if found else "COMPATIBLE"


def explained(said: str, theirs: str, pair: tuple[Any, Any]) -> str:
    """Why a difference is meant; '' when nothing explains it."""
    if "a union's default belongs to its first type" in said:
        return "a union's default of a later type"  # Java takes it since 1.12, its readers and others not always
    if "the default of field" in said and any(
        isinstance(n.get("type"), list) and isinstance(n.get("default"), str) for n in nodes(list(pair))
    ):
        return "a union's default of a later type"  # an enum's or a fixed's, of which Java takes any text
    if "is not one of the enum's symbols" in said or "characters, one for each byte" in said:
        return "an enum's or fixed's default that is no symbol or of another length"  # Java looks only whether it is text
    unknown = re.search(r"unknown type '(?:.*[.])?(\w+)'", said)
    if unknown and any(str(n.get("name", "")).rpartition(".")[2] == unknown[1] for n in nodes(list(pair)) if "type" in n):
        return "a name used before it is defined"  # Avro 1.12, 'Names': it must be defined before; Java looks ahead
    if any(_shadowed(one) for one in pair):
        return "a name of the null namespace beside its namesake"  # Java may take the first for the second, once it is complete
    if "UNREADABLE" in said and _namesakes(pair):
        return "a union of types with the same last name"  # fastavro takes the wrong one: its users could not read the bytes
    if "AMBIGUOUS_ALIAS" in said and theirs.startswith("REFUSED"):
        return "two fields to read from"  # Java throws, we say so
    if "matches multiple fields" in theirs and any(
        f["name"] in f.get("aliases", ()) for f in nodes(pair[0]) if "type" in f and "name" in f
    ):
        return "a field's own name as its alias"  # Java counts one field twice and throws
    return ""


def _shadowed(schema: Any) -> bool:
    """Whether a type without namespace has a namesake in one."""
    names = {n["name"] for n in nodes(schema) if n.get("type") in ("record", "enum", "fixed")}
    return any("." not in name and any(other.endswith(f".{name}") for other in names) for name in names)


def _namesakes(pair: tuple[Any, Any]) -> bool:
    """Whether some union of either has two types whose names end alike."""
    ahead: list[Any] = list(pair)
    while ahead:
        one = ahead.pop()
        if isinstance(one, list):
            names = [str(b if isinstance(b, str) else b.get("name", b["type"])).rpartition(".")[2] for b in one]
            if len(set(names)) < len(names):
                return True
            ahead.extend(one)
        elif isinstance(one, dict):
            ahead.extend(v for k, v in one.items() if k in ("type", "items", "values"))
            ahead.extend(f["type"] for f in one.get("fields", ()))
    return False


def test_verdicts_are_javas_but_for_named_differences(ask: Ask) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    @given(pairs())
    def compare(pair: tuple[Any, Any]) -> None:
        said, theirs = ours(*pair), ask(*pair)
        word = theirs.split(" ")[0]
        if said.split(" ")[0] == word:
            seen[word] += 1
            return
        reason = explained(said, theirs, pair)
        assert reason, f"we: {said}\nJava: {theirs}\nreader: {json.dumps(pair[0])}\nwriter: {json.dumps(pair[1])}"
        seen[reason] += 1

    compare()
    print(dict(seen))
    assert min(seen["COMPATIBLE"], seen["INCOMPATIBLE"]) > EXAMPLES / 20, "hardly anything was compared"
