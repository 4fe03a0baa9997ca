"""When a sector's value and the register's say the same. Differences of writing are not errors of the person.

Names: Unicode form (NFC/NFD), tone-mark placement (hòa/hoà), case and spacing do not count.
Birth dates: ISO 8601 text of reduced precision, 'YYYY', 'YYYY-MM' or 'YYYY-MM-DD'; a year agrees with any day in it.
Sex: 'M', 'F', and the words and codes agencies use for them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_TONES = "\u0300\u0301\u0303\u0309\u0323"  # grave, acute, tilde, hook above, dot below
_MISPLACED_TONE = re.compile(f"([oOuU])([aAeEyY])([{_TONES}])")
_SPACES = re.compile(r"\s+")
_SEXES = {"m": "M", "nam": "M", "1": "M", "male": "M", "f": "F", "nữ": "F", "nu": "F", "0": "F", "2": "F", "female": "F"}


def normal_name(text: str) -> str:
    """NFC, case-folded, single spaces, and the tone mark of oa/oe/uy always on the first vowel."""
    decomposed = unicodedata.normalize("NFD", text.strip().casefold())
    moved = _MISPLACED_TONE.sub(r"\1\3\2", decomposed)
    return unicodedata.normalize("NFC", _SPACES.sub(" ", moved))


def normal_sex(text: str) -> str:
    """'M', 'F', or the folded text where it is neither."""
    folded = unicodedata.normalize("NFC", text.strip().casefold())
    return _SEXES.get(folded, folded)


def same_name(left: str, right: str) -> bool:
    return normal_name(left) == normal_name(right)


def same_date(left: str, right: str) -> bool:
    """Whether one is the other at lower precision: '1985' and '1985-03-02' agree, '1985-02' and '1985-03-02' do not."""
    short, long = sorted((left.strip(), right.strip()), key=len)
    return long == short or (bool(short) and long.startswith(short + "-"))


def same_sex(left: str, right: str) -> bool:
    return normal_sex(left) == normal_sex(right)


def same_text(left: str, right: str) -> bool:
    return unicodedata.normalize("NFC", left.strip()) == unicodedata.normalize("NFC", right.strip())


COMPARE: dict[str, Callable[[str, str], bool]] = {
    "name": same_name,
    "date": same_date,
    "sex": same_sex,
    "text": same_text,
}
"""The `compare` annotation of a register field -> how a sector's value is compared with it, both as text."""
