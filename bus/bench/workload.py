"""The work that both engines get: people and change events, made of workload.json. Seeded: the same arguments, the same events.

About 95 % of the events agree with the register, 3 % differ in name, birth date or sex, 2 % name an unknown person; 60 % are
creates, 30 % updates, 10 % deletes. The row before an update writes name and sex in another way that means the same, so that
every agreement sees a change and no verdict depends on which image is looked at.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("workload.json")
BASE_MS = 1_750_000_000_000
STEP_MS = 4
PIN, PROVINCE = "personal_id", "province"
MATCHED = ("full_name", "birth_date", "sex")
"""Fields that are compared with the register, in order."""
IDENTITY = ((PIN, "string"), ("full_name", "string"), ("birth_date", "int"), ("sex", "string"), (PROVINCE, "string"))
"""What every row begins with. A birth date is in days since 1970-01-01."""
_NAMES = tuple(column for column, _ in IDENTITY)
_UNKNOWN, _WRONG, _OTHERWISE = 0.02, 0.05, 0.15
_CREATE, _UPDATE = 0.6, 0.9
_RESTATED = 100
"""One person in so many has an older version in the register first; the later one counts."""

FAMILIES = ["Nguyễn", "Trần", "Lê", "Phạm", "Hoàng", "Huỳnh", "Phan", "Vũ", "Võ", "Đặng", "Bùi", "Đỗ", "Hồ", "Ngô", "Dương", "Lý"]
MIDDLES = {
    "M": ["Văn", "Hữu", "Đức", "Minh", "Quang", "Công", "Thành", "Xuân"],
    "F": ["Thị", "Ngọc", "Thu", "Thanh", "Kim", "Mỹ", "Hồng", "Bích"],
}
GIVEN = {
    "M": [
        "An",
        "Bình",
        "Cường",
        "Dũng",
        "Đạt",
        "Giang",
        "Hải",
        "Hùng",
        "Khánh",
        "Long",
        "Nam",
        "Phúc",
        "Quân",
        "Sơn",
        "Tuấn",
        "Việt",
    ],
    "F": [
        "Anh",
        "Chi",
        "Diệp",
        "Dung",
        "Hà",
        "Hạnh",
        "Hoa",
        "Hương",
        "Lan",
        "Linh",
        "Mai",
        "Nga",
        "Oanh",
        "Phượng",
        "Thảo",
        "Yến",
    ],
}
SEX_IN_WORDS = {"M": "Nam", "F": "Nữ"}

Row = dict[str, Any]
Make = Callable[[random.Random], Any]
Identity = tuple[str, str, int, str, str]
"""PIN, name, birth date, sex and province."""


class Event(NamedTuple):
    """`number` counts the events of all domains, in turn."""

    domain: str
    number: int
    op: str
    before: Row | None
    after: Row | None
    ts_ms: int

    @property
    def row(self) -> Row:
        """The row that the event is about: of a deleted one the image before."""
        found = self.before if self.op == "d" else self.after
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Agreement:
    """`where` can hold 'province' and 'status'; `key` is the secret of the pseudonym in the peers' format."""

    name: str
    domains: tuple[str, ...]
    where: dict[str, tuple[str, ...]]
    fields: tuple[str, ...]
    pseudonymise: bool
    key: bytes

    def admits(self, **facts: str) -> bool:
        return all(facts[what] in allowed for what, allowed in self.where.items() if what in facts)


class Workload:
    """`people` in the register; row types as [(column, Avro type)], the identity first."""

    def __init__(self, people: int, seed: int, file: Path = FILE) -> None:
        self._spec = json.loads(file.read_text(encoding="utf-8"))
        self.people, self.seed = people, seed
        self.domains: list[str] = list(self._spec["domains"])
        self.table: str = self._spec["table"]
        self.register: tuple[str, str] = (self._spec["register"]["domain"], self._spec["register"]["table"])
        self.agreements = [_agreement(a) for a in self._spec["agreements"]]
        self._provinces = _weighted(self._spec["provinces"])

    def columns(self, domain: str) -> list[tuple[str, Any]]:
        return [*IDENTITY, *((f["name"], _type(f)) for f in self._spec["domains"][domain])]

    def register_columns(self) -> list[tuple[str, Any]]:
        return [*IDENTITY, *((f["name"], _type(f)) for f in self._spec["register"]["fields"])]

    def identities(self) -> Iterator[Identity]:
        """Everybody's PIN, name, birth date, sex and province."""
        rng = random.Random(self.seed)
        for number in range(self.people):
            sex, province = rng.choice("MF"), rng.choice(self._provinces)
            pin = f"0{province}{rng.randrange(4)}{rng.randrange(10):d}{number:07d}"
            yield pin, full_name(rng, sex), rng.randrange(-10_000, 19_000), sex, province

    def someone(self) -> Callable[[int], Row]:
        """number -> the register's row of that person of a population of any size, made of the number alone."""
        rng = random.Random()
        extra = _maker(self._spec["register"]["fields"])

        def row(number: int) -> Row:
            rng.seed(self.seed << 40 | number)
            sex = rng.choice("MF")
            known = self.pin(number), full_name(rng, sex), rng.randrange(-10_000, 19_000), sex, self._province(number)
            return dict(zip(_NAMES, known, strict=True)) | extra(rng)

        return row

    def pin(self, number: int) -> str:
        """The PIN of one of `someone`'s people: 12 digits, another one for each number below 10 million."""
        return f"0{self._province(number)}{number % 4}{number // 4 % 10}{number:07d}"

    def _province(self, number: int) -> str:
        return self._provinces[number % len(self._provinces)]

    def persons(self) -> Iterator[tuple[Row, bool]]:
        """(row, whether it restates a person who is there already), in the order in which they go into the register."""
        rng = random.Random(self.seed + 1)
        extra = _maker(self._spec["register"]["fields"])
        for number, identity in enumerate(self.identities()):
            row = dict(zip(_NAMES, identity, strict=True))
            if number % _RESTATED == 0:
                yield row | {"full_name": f"Cũ {row['full_name']}"} | extra(rng), False
            yield row | extra(rng), number % _RESTATED == 0

    def events(self, domain: str, count: int, known: Callable[[int], Identity] | None = None) -> Iterator[Event]:
        """`known`: another population than that of `identities`, by number."""
        rng = random.Random(f"{self.seed}/{domain}")
        known = known or list(self.identities()).__getitem__
        extra, place = _maker(self._spec["domains"][domain]), self.domains.index(domain)
        for index in range(count):
            row = _row(rng, *known(rng.randrange(self.people))) | extra(rng)
            luck = rng.random()
            op = "c" if luck < _CREATE else "u" if luck < _UPDATE else "d"
            before = None if op == "c" else row if op == "d" else row | extra(rng) | _in_other_words(row)
            number = index * len(self.domains) + place
            yield Event(domain, number, op, before, None if op == "d" else row, BASE_MS + index * STEP_MS)


def _row(rng: random.Random, pin: str, name: str, birth: int, sex: str, province: str) -> Row:
    """Someone of the register, now and then with a mistake or another way of writing."""
    luck = rng.random()
    if luck < _UNKNOWN:
        pin = f"9{rng.randrange(10**11):011d}"
    elif luck < _WRONG:
        wrong = rng.randrange(4)
        if wrong in (0, 3):
            name = full_name(rng, sex)[:-1] + "x"
        if wrong in (1, 3):
            birth += rng.randrange(1, 400)
        if wrong == 2:
            sex = "F" if sex == "M" else "M"
    elif luck < _OTHERWISE:
        name = name.upper() if rng.random() < 0.5 else f" {name} "
    return {PIN: pin, "full_name": name, "birth_date": birth, "sex": sex, PROVINCE: province}


def _in_other_words(row: Row) -> Row:
    """The same name and sex, written otherwise."""
    name = row["full_name"]
    return {"full_name": name.title() if name.isupper() else name.upper(), "sex": SEX_IN_WORDS[row["sex"]]}


def full_name(rng: random.Random, sex: str) -> str:
    return f"{rng.choice(FAMILIES)} {rng.choice(MIDDLES[sex])} {rng.choice(GIVEN[sex])}"


def _agreement(spec: dict[str, Any]) -> Agreement:
    where = {what: tuple(allowed) for what, allowed in spec["where"].items()}
    if unknown := sorted(set(where) - {"province", "status"}):
        raise ValueError(f"workload.json, agreement {spec['name']!r}: unknown filter {unknown[0]!r}")
    key = spec.get("key", "").encode()
    return Agreement(spec["name"], tuple(spec["domains"]), where, tuple(spec["fields"]), spec["pseudonymise"], key)


def _type(spec: dict[str, Any]) -> Any:
    return ["null", spec["type"]] if "null" in spec else spec["type"]


def _weighted(texts: list[str]) -> list[str]:
    """'79*3' stands for three of '79'."""
    return [text for one in texts for text, _, times in [one.partition("*")] for _ in range(int(times or 1))]


def _maker(specs: list[dict[str, Any]]) -> Callable[[random.Random], Row]:
    makers = [(spec["name"], _make(spec)) for spec in specs]
    return lambda rng: {name: make(rng) for name, make in makers}


def _make(spec: dict[str, Any]) -> Make:
    """How a column's values are made: `one_of`, `between` or `pattern` (each # a digit), null in a share of them."""
    made = _value(spec)
    share = spec.get("null", 0)
    return (lambda rng: None if rng.random() < share else made(rng)) if share else made


def _value(spec: dict[str, Any]) -> Make:
    if "one_of" in spec:
        texts = _weighted(spec["one_of"])
        return lambda rng: texts[int(rng.random() * len(texts))]
    if "pattern" in spec:
        template, size = re.sub("#", "%s", spec["pattern"]), spec["pattern"].count("#")
        return lambda rng: template % tuple(f"{int(rng.random() * 10**size):0{size}d}")
    low, high = spec["between"]
    if spec["type"] == "double":
        return lambda rng: round(low + rng.random() * (high - low), 2)
    return lambda rng: low + int(rng.random() * (high + 1 - low))
