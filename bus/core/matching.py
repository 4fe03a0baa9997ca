"""When a sector's value and the register's say the same. Differences of writing are not errors of the person.

Names: Unicode form (NFC/NFD), tone-mark placement (hòa/hoà), case and spacing do not count.
Birth dates: ISO 8601 text of reduced precision, 'YYYY', 'YYYY-MM' or 'YYYY-MM-DD'; a year agrees with any day in it.
Sex: 'M', 'F', and the words and codes agencies use for them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

_TONES = "\u0300\u0301\u0303\u0309\u0323"  # grave, acute, tilde, hook above, dot below
_MISPLACED_TONE = re.compile(f"([oOuU])([aAeEyY])([{_TONES}])")
_SPACES = re.compile(r"\s+")
_SHORT = 128
"""Characters up to which a text is normalized without a look at it."""
_MOST_MARKS = 30
"""Most combining marks in a row of a text that is normalized: Unicode's stream-safe format (UAX #15, 13) has as many."""
_SEXES = {"m": "M", "nam": "M", "1": "M", "male": "M", "f": "F", "nữ": "F", "nu": "F", "0": "F", "2": "F", "female": "F"}


def normal_name(text: str) -> str:
    """NFC, case-folded, single spaces, and the tone mark of oa/oe/uy always on the first vowel."""
    decomposed = _normal("NFD", text.strip().casefold())
    moved = _MISPLACED_TONE.sub(r"\1\3\2", decomposed)
    return _normal("NFC", _SPACES.sub(" ", moved))


def normal_sex(text: str) -> str:
    """'M', 'F', or the folded text where it is neither."""
    folded = _normal("NFC", text.strip().casefold())
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
    return _normal("NFC", left.strip()) == _normal("NFC", right.strip())


def _normal(form: Literal["NFC", "NFD"], text: str) -> str:
    """The Unicode form; of a text with more marks in a row than any language writes the text itself.

    Python sorts the marks of a character one by one, in the square of their number: a megabyte of them would take minutes.
    """
    return text if len(text) > _SHORT and _has_long_run(text) else unicodedata.normalize(form, text)


def _has_long_run(text: str) -> bool:
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > _MOST_MARKS:
            return True
    return False


COMPARE: dict[str, Callable[[str, str], bool]] = {
    "name": same_name,
    "date": same_date,
    "sex": same_sex,
    "text": same_text,
}
"""The `compare` annotation of a register field -> how a sector's value is compared with it, both as text."""
