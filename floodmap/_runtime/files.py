"""Files written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from floodmap.errors import writing


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f".{path.stem}.part")
    with writing(path):
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
