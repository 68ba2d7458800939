"""Check the style of the documents, lines of 120 characters and sentences of 30 words: `python scripts/check_docs.py`.

The lab notes in `docs/lab/`, code and the addresses of links are not checked. A table cell, a list item and a heading
each begin a new sentence.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_LINE, LONGEST_SENTENCE = 120, 30
FENCE = re.compile(r"^\s*(```|~~~)")
ITEM = re.compile(r"^\s*([-*+]|\d+\.)\s+|^#+\s+|^>\s*|^\s*[!?]{3}\s")
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
END = re.compile(r"(?<=[.!?])[\"')*_]*\s+|\s*\|\s*")


def documents() -> list[Path]:
    """Return every Markdown document at the top of the repository and in `docs/`, without the lab notes."""
    inside = [path for path in ROOT.glob("docs/**/*.md") if "lab" not in path.relative_to(ROOT).parts]
    return sorted([*inside, *ROOT.glob("*.md")])


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the text of each finding."""
    paragraph: list[str] = []
    began, in_code = 1, False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if FENCE.match(line):
            in_code = not in_code
        if len(line) > LONGEST_LINE and not in_code:
            yield number, f"{len(line)} characters"
        ends = in_code or not line.strip() or bool(ITEM.match(line)) or line.lstrip().startswith("|")
        if ends and paragraph:
            yield from ((began, finding) for finding in _long_sentences(" ".join(paragraph)))
            paragraph = []
        if not in_code and not FENCE.match(line) and line.strip():
            if not paragraph:
                began = number
            paragraph.append(ITEM.sub("", line))


def _long_sentences(paragraph: str) -> Iterator[str]:
    """Yield a finding for each sentence that is too long."""
    plain = re.sub(r"`[^`]*`", "code", LINK.sub(r"\1", paragraph))
    for sentence in END.split(plain):
        words = [word for word in sentence.split() if re.search(r"\w", word)]
        if len(words) > LONGEST_SENTENCE:
            yield f"{len(words)} words: {' '.join(words[:8])} ..."


def main() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {finding}"
        for path in documents()
        for number, finding in findings(path.read_text("utf-8"))
    ]
    print("\n".join(wrong) or "documents: lines and sentences are short")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
