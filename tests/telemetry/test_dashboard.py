"""Laws of the dashboard: it is the one that make.py makes, and Grafana and people can read it."""

from __future__ import annotations

import json
import runpy
from typing import Any

from bus import config

GRAFANA = config.ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "bus.json").read_text(encoding="utf-8"))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_file_is_what_its_maker_makes() -> None:
    assert runpy.run_path(str(GRAFANA / "make.py"))["dashboard"]() == DASHBOARD, "run python deploy/grafana/make.py"


def test_it_names_no_data_source_of_this_place() -> None:
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 39
    assert [v["name"] for v in DASHBOARD["templating"]["list"]] == ["datasource", "dataset"]
    for panel in panels():
        sources = [panel["datasource"], *(t["datasource"] for t in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_panels_say_what_they_show_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
