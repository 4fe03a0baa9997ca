"""The web pages: well-formed, escaped, accessible by what can be read off, whole without scripts, alone without a network."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bus import config
from bus.avro.dataset import Dataset
from bus.subscription import files, pages
from bus.subscription.asyncapi import Server
from bus.subscription.catalog import SubscriptionError

SETTINGS = config.load(Path("/nonexistent"), env={})
FILES = files.read(SETTINGS)
SERVER = Server(("broker.example:9093",), "SASL_SSL", "SCRAM-SHA-512", 8, 3)
NOW_MS = 1_795_000_000_000
MADE = pages.pages(FILES, SERVER, dict.fromkeys(FILES.datasets, NOW_MS - 5_000), NOW_MS)
HTML = {name: text for name, text in MADE.items() if name.endswith(".html")}
VOID = {"meta", "link", "br", "img", "hr", "input", "col", "wbr"}
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)> ' & {{ 7 * 7 }} </style> javascript:alert(1) ế"
"""The last letter is decomposed."""


class Page(HTMLParser):
    """Elements with attributes, text by element, and every tag that is not closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.faults: list[str] = []
        self.said: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open):
            self.said.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


@pytest.mark.parametrize("name", HTML)
def test_a_page_is_well_formed_and_can_be_read_by_everyone(name: str) -> None:
    """Language, title, one h1 and no level left out, named tables with scoped heads, each id once, no empty link."""
    page = Page(HTML[name])
    assert page.faults == []
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    assert all(head.get("scope") in ("row", "col") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a} <= set(ids)
    assert not re.search(r"<a [^>]*>\s*</a>", HTML[name])


@pytest.mark.parametrize("name", HTML)
def test_a_page_needs_no_script_and_nothing_from_elsewhere(name: str) -> None:
    page = Page(HTML[name])
    assert {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "form", "base"} == set()
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on") or a in ("src", "style")]
    assert "url(" not in HTML[name]
    assert "@import" not in HTML[name]
    for attributes in page.all("a"):
        target = attributes["href"]
        if target.startswith("#"):
            continue
        reached = (Path("/") / name).parent.joinpath(target).as_posix()
        while "/../" in reached:
            reached = re.sub(r"/[^/]+/\.\./", "/", reached, count=1)
        assert reached.removeprefix("/") in MADE, f"{name} leads to {target}, which is not there"


def test_every_dataset_and_agency_has_a_page_that_says_all_of_it() -> None:
    for dataset in FILES.datasets.values():
        text = Page(HTML[f"dataset/{dataset.name}.html"]).text
        for field in dataset.row["fields"]:
            assert field["name"] in text
            assert unicodedata.normalize("NFC", field["doc"]) in text
    for agreement in FILES.agreements.values():
        text = Page(HTML[f"agency/{agreement.agency}.html"]).text
        assert agreement.purpose in text
        for grant in agreement.grants:
            assert all(field.name.replace(".", "_") in text for field in grant.fields)


def hostile() -> files.Files:
    """The same files with marks in every text that a person writes."""
    datasets: dict[str, Dataset] = {}
    for name, one in FILES.datasets.items():
        row = copy.deepcopy(one.row) | {"doc": HOSTILE}
        for field in row["fields"]:
            field["doc"] = HOSTILE
        datasets[name] = dataclasses.replace(one, row=row)
    agreements = {}
    for name, agreement in FILES.agreements.items():
        grants = tuple(
            dataclasses.replace(g, where=tuple((column, (HOSTILE,)) for column, _ in g.where)) if g.where else g
            for g in agreement.grants
        )
        agreements[name] = dataclasses.replace(agreement, purpose=HOSTILE, legal_basis=HOSTILE, grants=grants)
    return files.Files(datasets, agreements)


@pytest.fixture(scope="module")
def hostile_pages() -> dict[str, str]:
    return pages.pages(hostile(), SERVER, None, NOW_MS)


@pytest.mark.parametrize("name", HTML)
def test_whatever_a_text_holds_it_stays_text(name: str, hostile_pages: dict[str, str]) -> None:
    """The same elements as with harmless texts, and the text is read as it was written, composed."""
    harmless, page = Page(HTML[name]), Page(hostile_pages[name])
    assert page.faults == []
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in harmless.elements} | {"span"}
    assert {tuple(sorted(a)) for _, a in page.elements} <= {tuple(sorted(a)) for _, a in harmless.elements} | {("class",)}
    assert " ".join(unicodedata.normalize("NFC", HOSTILE).split()) in page.text
    assert unicodedata.is_normalized("NFC", hostile_pages[name])


def channel(value: int) -> float:
    share = value / 255
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4


def luminance(colour: str) -> float:
    red, green, blue = (channel(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_have_the_contrast_that_wcag_asks_of_text() -> None:
    """4.5 to 1 (WCAG 2.2, 1.4.3), in light and in dark, on each ground that a text can stand on."""
    schemes = re.findall(r":root \{([^}]*)\}", HTML["index.html"])
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", scheme))
        pairs = [(text, ground) for text in ("text", "quiet", "link") for ground in ("ground", "band")]
        for text, ground in [*pairs, ("alert", "alert-ground")]:
            lighter, darker = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, ground, scheme)


def test_pages_of_what_is_no_more_go_away_and_nothing_else_does(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, home=tmp_path / "no bus")
    place = tmp_path / "pages"
    pages.write(settings, FILES, place, NOW_MS)
    (place / "mine.txt").write_text("mine")
    gone = next(iter(FILES.agreements))
    fewer = dataclasses.replace(FILES, agreements={n: a for n, a in FILES.agreements.items() if n != gone})
    pages.write(settings, fewer, place, NOW_MS)
    left = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert left == pages.pages(fewer, SERVER, None, NOW_MS).keys() | {"mine.txt", pages.MARKER}


def test_a_marker_that_names_files_elsewhere_moves_nothing(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, home=tmp_path / "no bus")
    place, outside = tmp_path / "pages", tmp_path / "outside.txt"
    outside.write_text("mine")
    place.mkdir()
    (place / pages.MARKER).write_text(json.dumps(["../outside.txt", str(outside)]))
    pages.write(settings, FILES, place, NOW_MS)
    assert outside.read_text() == "mine"


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SubscriptionError, match="other things"):
        pages.write(dataclasses.replace(SETTINGS, home=tmp_path / "no bus"), FILES, tmp_path, NOW_MS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
