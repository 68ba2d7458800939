"""Style of the documents: `python scripts/check_docs.py`. Lines of 120 characters, sentences of 30 words at most.

What was tried and given up, in `docs/lab/`, is exempt; so are code and addresses of links. A cell of a table, an item
of a list and a heading each begin a sentence of their own.
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
    """Every document that a reader meets."""
    inside = [path for path in ROOT.glob("docs/**/*.md") if "lab" not in path.relative_to(ROOT).parts]
    return sorted([*inside, *ROOT.glob("*.md")])


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers, and what is wrong there."""
    paragraph: list[str] = []
    began, in_code = 1, False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if FENCE.match(line):
            in_code = not in_code
        if len(line) > LONGEST_LINE and not in_code:
            yield number, f"{len(line)} characters"
        ends = in_code or not line.strip() or bool(ITEM.match(line)) or line.lstrip().startswith("|")
        if ends and paragraph:
            yield from ((began, said) for said in _long_sentences(" ".join(paragraph)))
            paragraph = []
        if not in_code and not FENCE.match(line) and line.strip():
            if not paragraph:
                began = number
            paragraph.append(ITEM.sub("", line))


def _long_sentences(paragraph: str) -> Iterator[str]:
    plain = re.sub(r"`[^`]*`", "code", LINK.sub(r"\1", paragraph))
    for sentence in END.split(plain):
        words = [word for word in sentence.split() if re.search(r"\w", word)]
        if len(words) > LONGEST_SENTENCE:
            yield f"{len(words)} words: {' '.join(words[:8])} ..."


def main() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {said}"
        for path in documents()
        for number, said in findings(path.read_text("utf-8"))
    ]
    print("\n".join(wrong) or "documents: lines and sentences are short")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
