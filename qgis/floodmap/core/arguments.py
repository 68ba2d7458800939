"""Command lines of the program, from values of parameters."""

from __future__ import annotations

import os
from typing import Any, List, Mapping, Sequence, Tuple


def command_line(
    program: Sequence[str], command: str, places: Sequence[str], options: Sequence[Tuple[str, Any]]
) -> List[str]:
    """Return the list of arguments of one run.

    Args:
        program: the program, as a list of arguments.
        command: name of its command.
        places: the arguments without a name: files and folders.
        options: pairs of an option and its value. True: the option alone. False, None, "" and an empty list: no
            option. A list: the option for each value.
    """
    line = [*program, command, *map(_guarded, places)]
    for name, value in options:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is True:
                line.append(name)
            elif one is not None and one is not False and one != "":
                line.append(f"{name}={_number(one)}")  # with "=", a value may begin with "-"
    return [*line, "--progress=json"]


def watching(options: Sequence[Tuple[str, Any]]) -> List[Tuple[str, Any]]:
    """Return the options of `segment` for a program that stays and corrects whenever the points change."""
    return [(name, value) for name, value in options if name != "--json"] + [("--watch", True)]


def _guarded(place: str) -> str:
    """Return a name of a file that is no option."""
    return os.path.join(".", place) if place.startswith("-") else place


def _number(value: Any) -> str:
    """Return the text of a value; a whole number has no decimal point."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def shown(line: Sequence[str]) -> str:
    """Return a command line as text for the log, with quotation marks where a shell needs them."""
    return " ".join(f'"{part}"' if not part or any(c in part for c in " \t&;()'") else part for part in line)


def given(values: Mapping[str, Any], *names: str) -> List[Tuple[str, Any]]:
    """Return the pairs of option and value for names of options, such as `--min-area`, that have a value."""
    return [(name, values[name]) for name in names if values.get(name) not in (None, "", False)]
