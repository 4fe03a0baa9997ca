"""Vietnamese names: family name, middle name, given name, with about the frequencies of the country. All text is NFC."""

from __future__ import annotations

from itertools import accumulate
from random import Random

_FAMILY = {
    "Nguyễn": 380, "Trần": 110, "Lê": 95, "Phạm": 70, "Hoàng": 30, "Huỳnh": 25, "Phan": 45, "Vũ": 22, "Võ": 20, "Đặng": 21,
    "Bùi": 20, "Đỗ": 14, "Hồ": 13, "Ngô": 13, "Dương": 10, "Lý": 6, "Đinh": 8, "Đoàn": 7, "Trịnh": 7, "Mai": 6, "Lương": 6,
    "Đào": 6, "Cao": 5, "Tạ": 4, "Hà": 5, "Thái": 3, "Tô": 3, "Châu": 3, "Quách": 2, "Nông": 2, "Lò": 2, "Giàng": 2, "Thạch": 2,
}  # fmt: skip
_MIDDLES = {
    "M": "Văn Văn Văn Hữu Đức Quang Minh Ngọc Thanh Công Xuân Hoàng Quốc Gia Đình Tuấn Anh Trọng Thế Bá Duy Khắc",
    "F": "Thị Thị Thị Thị Ngọc Thanh Thu Kim Minh Phương Bích Mỹ Hoài Thùy Diệu Hồng Khánh Tuyết Quỳnh Thúy Lan Bảo",
}
_GIVENS = {
    "M": (
        "An Anh Bảo Bình Cường Chiến Dũng Duy Đạt Đức Giang Hải Hiếu Hòa Hoàng Hùng Huy Hưng Khang Khánh Khoa Kiên Lâm Long Lộc "
        "Minh Nam Nghĩa Nhân Phong Phú Phúc Quân Quang Quý Sáng Sơn Tài Tâm Tân Thái Thành Thắng Thiện Thịnh Thọ Thụy Tiến Toàn "
        "Trí Trung Trường Tú Tuấn Tùng Việt Vinh Vũ Xuyên Hóa Thỏa Khỏe"
    ),
    "F": (
        "Anh Ánh Bích Chi Cúc Diễm Dung Duyên Đào Giang Hà Hạnh Hằng Hiền Hoa Hòa Hoài Hồng Huệ Hương Hường Khánh Kiều Lan Liên "
        "Linh Loan Ly Mai My Mỹ Nga Ngân Ngọc Nguyệt Nhi Nhung Oanh Phương Phượng Quỳnh Tâm Thảo Thơ Thu Thùy Thủy Thúy Thư "
        "Trang Trâm Trinh Tuyết Uyên Vân Vy Xuân Yến Hòe Thoa"
    ),
}
_MIDDLE = {sex: names.split() for sex, names in _MIDDLES.items()}
_GIVEN = {sex: names.split() for sex, names in _GIVENS.items()}
_FAMILIES = list(_FAMILY)
_FAMILY_STEPS = list(accumulate(_FAMILY.values()))
_ETHNICITIES = ["Kinh", "Tày", "Thái", "Mường", "Khmer", "Hoa", "Nùng", "H'Mông", "Dao", "Gia Rai", "Ê Đê"]
_ETHNICITY_STEPS = list(accumulate([860, 19, 18, 15, 14, 8, 11, 14, 9, 5, 4]))
_RELIGIONS = [None, "Phật giáo", "Công giáo", "Cao Đài", "Tin Lành", "Phật giáo Hòa Hảo"]
_RELIGION_STEPS = list(accumulate([860, 48, 61, 6, 10, 10]))


def family_name(rng: Random) -> str:
    return rng.choices(_FAMILIES, cum_weights=_FAMILY_STEPS)[0]


def full_name(rng: Random, family: str, sex: str) -> str:
    """'Nguyễn Thị Thu Hà': family name first; one name in twelve has no middle name, one in four has two."""
    shape = rng.random()
    middles = 0 if shape < 0.08 else 2 if shape > 0.75 else 1
    return " ".join([family, *(rng.choice(_MIDDLE[sex]) for _ in range(middles)), rng.choice(_GIVEN[sex])])


def ethnicity(rng: Random) -> str:
    return rng.choices(_ETHNICITIES, cum_weights=_ETHNICITY_STEPS)[0]


def religion(rng: Random) -> str | None:
    return rng.choices(_RELIGIONS, cum_weights=_RELIGION_STEPS)[0]
