"""Detection scored against the ground truth, which the bus never reads: recall and false alarms by kind of error."""

from __future__ import annotations

from collections import Counter, defaultdict

import psycopg

from bus.avro.dataset import Dataset
from tests.oracle.collect import Codec, records
from tests.oracle.values import Row
from tests.pipeline.bus import Bus
from tests.pipeline.canaries import AVIARY

FOUND = ("MISMATCH", "NOT_FOUND", "NO_PIN")
RECALL, HARMLESS_FLAGGED, FALSE_ALARMS = 0.95, 0.02, 0.005
LEAST_ERRORS, LEAST_VARIANTS = 100, 30
"""Fewer would prove nothing; a society of a thousand has some 130 and 40."""


def test_errors_are_found_and_variants_are_not(running_bus: Bus) -> None:
    """Of what the snapshot read: real errors found, with the verdict they deserve; other ways of writing let pass."""
    truth = seeded(running_bus)
    table: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    clean: Counter[str] = Counter()
    for dataset in running_bus.datasets.values():
        if not dataset.register:
            for key, role, status in verdicts(running_bus, dataset):
                kind = truth.get((dataset.name, key, role))
                if kind:
                    table[kind][status] += 1
                else:
                    clean[status] += 1
    print(render(table, clean))
    real = [(status, n, wanted) for (_, wanted), row in table.items() if wanted != "MATCH" for status, n in row.items()]
    harmless = [(status, n) for (_, wanted), row in table.items() if wanted == "MATCH" for status, n in row.items()]
    total, variants = sum(n for _, n, _ in real), sum(n for _, n in harmless)
    assert total >= LEAST_ERRORS
    assert variants >= LEAST_VARIANTS
    assert sum(n for status, n, wanted in real if status == wanted) >= RECALL * total
    assert sum(n for status, n in harmless if status != "MATCH") <= HARMLESS_FLAGGED * variants
    alarms = clean["MISMATCH"] + clean["NOT_FOUND"]
    assert alarms <= FALSE_ALARMS * clean.total()


def seeded(bus: Bus) -> dict[tuple[str, str, str], tuple[str, str]]:
    """(dataset, row key, role) -> (kind, expected verdict) of what was wrong when the society was filled."""
    found = {}
    for domain in bus.domains:
        with psycopg.connect(bus.dsns()[domain]) as connection:
            query = "SELECT table_name, row_key, role, kind, expected FROM truth.error WHERE note = 'fill'"
            for table, key, role, kind, expected in connection.execute(query):
                found[(f"{domain}.{table}", key, role)] = (kind, expected)
    return found


def verdicts(bus: Bus, dataset: Dataset) -> list[tuple[str, str, str]]:
    """(row key, role, status) of every row read by the snapshot, canaries left out."""
    codec, found = Codec(bus.settings, {}), []
    for raw in records(bus.settings, f"verified.{dataset.name}"):
        verified = codec.verified(dataset, raw)
        if verified.event.op != "r" or (dataset.name, key := row_key(dataset, verified.event.row)) in AVIARY.rows:
            continue
        found += [(key, v["role"], v["status"]) for v in verified.verification]
    return found


def row_key(dataset: Dataset, row: Row) -> str:
    return "/".join(str(row[c]) for c in dataset.primary_key)


def render(table: dict[tuple[str, str], Counter[str]], clean: Counter[str]) -> str:
    """Recall and precision by kind of error."""
    columns = ("MATCH", *FOUND)
    lines = [f"{'kind':26}{'deserves':12}{'n':>7}" + "".join(f"{c:>11}" for c in columns) + f"{'recall':>9}"]
    for (kind, wanted), row in sorted(table.items(), key=lambda item: (item[0][1], item[0][0])):
        counts = "".join(f"{row[c]:11}" for c in columns)
        lines.append(f"{kind:26}{wanted:12}{row.total():7}{counts}{row[wanted] / row.total():9.3f}")
    lines.append(f"{'(nothing wrong)':38}{clean.total():7}" + "".join(f"{clean[c]:11}" for c in columns))
    for status in ("MISMATCH", "NOT_FOUND"):
        right = sum(row[status] for (_, wanted), row in table.items() if wanted == status)
        given = clean[status] + sum(row[status] for row in table.values())
        lines.append(f"precision of {status}: {right / given if given else 1:.3f} ({right} of {given})")
    return "\n".join(lines)
