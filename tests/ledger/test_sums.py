"""What the ledger keeps of many differences."""

from __future__ import annotations

from bus.ledger.sums import MOST_TOLD, Books, Finding


def test_however_many_differences_of_one_kind_there_are_one_of_another_is_told() -> None:
    books = Books()
    for offset in range(10 * MOST_TOLD):
        books.find(Finding("passed_over", "person", "", "population.person", 0, offset, {}))
    books.find(Finding("unexplained", "person", "", "verified.person", 0, 7, {}))
    assert [f.kind for f in books.findings] == ["passed_over"] * MOST_TOLD + ["unexplained"]
    assert books.told()["findings"] == 10 * MOST_TOLD + 1
