"""Formatting of sizes of files and disks as text."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")


def in_bytes(size: int) -> str:
    """Return a number of bytes as text with a decimal unit (1 kB is 1000 B), such as 999 B, 12 kB or 3.4 GB."""
    number, unit = float(size), 0
    while number >= 999.5 and unit < len(_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    digits = 1 if unit and number < 9.95 else 0
    return f"{number:,.{digits}f} {_UNITS[unit]}"
