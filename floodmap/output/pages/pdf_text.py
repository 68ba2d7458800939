"""Fonts of the PDF report, and characters that a font lacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fpdf import FPDF

_ENCODING = "cp1252"
"""Characters of Helvetica, one of the fonts that every PDF reader has."""


@dataclass(frozen=True, slots=True)
class Fonts:
    """The font of a report, regular and bold."""

    family: str
    """Name by which fpdf2 knows the font."""
    known: frozenset[int] | None
    """Codes of the characters that the font has; None: those of `_ENCODING`."""

    def shown(self, text: str) -> str:
        """Return a text in which characters that the font lacks are replaced by their code, such as U+6C34."""
        return "".join(one if self._has(one) else f"U+{ord(one):04X}" for one in text)

    def _has(self, character: str) -> bool:
        if self.known is not None:
            return ord(character) in self.known
        return bool(character.encode(_ENCODING, "ignore"))


def use_fonts(pdf: FPDF) -> Fonts:
    """Add the font of the report to a document, and return it.

    It is DejaVu Sans, which matplotlib brings: Latin, Greek, Cyrillic, Arabic and Hebrew letters, and more. Only the
    characters that occur are put into the file. Without matplotlib it is Helvetica, with Latin letters only.
    """
    folder = _dejavu()
    if folder is None:
        return Fonts("helvetica", None)
    pdf.add_font("DejaVu", "", folder / "DejaVuSans.ttf")
    pdf.add_font("DejaVu", "B", folder / "DejaVuSans-Bold.ttf")
    return Fonts("DejaVu", _characters(folder))


def _dejavu() -> Path | None:
    """Return the folder of DejaVu Sans; None without matplotlib. matplotlib itself is not imported: that is slow."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    return folder if (folder / "DejaVuSans-Bold.ttf").is_file() else None


@cache
def _characters(folder: Path) -> frozenset[int]:
    """Return the codes of the characters that both fonts have."""
    from fontTools.ttLib import TTFont

    fonts = [TTFont(folder / name) for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")]
    return frozenset.intersection(*(frozenset(font.getBestCmap()) for font in fonts)) | {ord("\n")}
