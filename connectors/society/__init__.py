"""The seeded society that all mock agencies draw from: families, their records, and life that goes on.

`fill` writes a society of N people into empty databases; `live` lets births, moves, marriages and the agencies' own
business happen at a given rate. What an agency makes of it stands in connectors/<domain>/mock.py, and nowhere here.
"""

from connectors.society.agency import SocietyError, domains
from connectors.society.filling import fill, is_empty
from connectors.society.living import live

__all__ = ["SocietyError", "domains", "fill", "is_empty", "live"]
