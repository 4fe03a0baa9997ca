"""Laws of which agreements are served: each is judged by itself."""

from __future__ import annotations

from dataclasses import replace

from bus.avro import dataset
from bus.config import Settings
from bus.core.agreement import Agreement, Delivery, Grant, GrantedField, Way
from bus.delivery.served import served

DATASETS = dataset.load(Settings().schemas)


def agreement(name: str, grant: Grant, way: Way = Way.FEED) -> Agreement:
    return Agreement(
        name, name.split(".", maxsplit=1)[0], "", "", (grant,), 0, None, name.encode().ljust(32), delivery=Delivery(way)
    )


def test_an_agreement_that_fits_no_schema_of_this_process_is_not_served_and_all_others_are() -> None:
    """As while a dataset was added and the process has not begun anew: its agency is known, and so are all the others."""
    good = Grant("civil.birth", (GrantedField("register_number"),))
    odd = [replace(good, dataset="civil.moon"), replace(good, fields=(GrantedField("no_such_field"),))]
    listed = [agreement("archive.good", good), agreement("tax.sent", good, Way.WEBHOOK)]
    listed += [agreement(f"archive.odd{number}", grant) for number, grant in enumerate(odd)]
    found = served({one.id: one for one in listed}, {}, [], {}, DATASETS, Way.FEED)
    assert found.outlets.keys() == {"archive.good"}
    assert found.unfit.keys() == {"archive.odd0", "archive.odd1"}
    assert "civil.moon" in found.unfit["archive.odd0"]
    assert "no_such_field" in found.unfit["archive.odd1"]
    assert all(one.id.encode() in found.index for one in listed)
