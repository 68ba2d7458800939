"""What differs between the settings of two runs, in the words of the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_MISSING = object()
_UNITS = ("_m2", "_m")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What was, and what is: "--threshold was 0.5, is 0.6", "the scene's file, or one beside it, has changed".

    Args:
        old: settings of an earlier run, as `pipeline.describe` makes them, from JSON.
        new: those of this one.

    Returns:
        Empty where they are the same.
    """
    before, now = _leaves(old), _leaves(json.loads(json.dumps(new, default=str)))
    names = [*now, *(name for name in before if name not in now)]
    differing = {name for name in names if before.get(name, _MISSING) != now.get(name, _MISSING)}
    said = [_said(name, before, now, differing) for name in names if name in differing]
    return list(dict.fromkeys(line for line in said if line))


def _leaves(settings: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(settings, Mapping):
        return {name: leaf for key, value in settings.items() for name, leaf in _leaves(value, (*above, key)).items()}
    return {above: settings}


def _said(
    name: tuple[str, ...], before: Mapping[Any, Any], now: Mapping[Any, Any], differing: set[tuple[str, ...]]
) -> str:
    """One difference; nothing where another says it."""
    old, new = before.get(name), now.get(name)
    match name:
        case ("source", "fingerprint"):
            return "the scene's file, or one beside it, has changed"
        case ("model", "sha256"):
            return "the model's weights differ"
        case ("model", "runs_on"):
            return f"the model ran on {old}, now on {new}"
        case ("model", "name"):
            return _was("--model", old, new)
        case ("versions", library):
            return f"{library} {old} was used, this is {new}"
        case ("source", "near_infrared", _):
            return ""  # follows from bands, prompts and the model
        case ("source", field):
            # What an option overrules is said of the option, and new pixels have a new date.
            if _option_of(field) & differing or (field == "date" and ("source", "fingerprint") in differing):
                return ""
            return _was(f"the scene's {field.removesuffix('_m')}", old, new)
        case ("settings", "fingerprints", option):
            given = _path_of(option, now)
            return "" if _option_of(option) & differing else f"{PurePath(given).name} (--{option}) has changed"
        case ("settings", "min_area_m2" | "simplify_m") if ("source", "gsd_m") in differing:
            return ""  # counted in pixels, where nothing was given
        case ("settings", *_, option):
            return _was(_flag(option), old, new)
    return _was(" ".join(name), old, new)


def _option_of(field: str) -> set[tuple[str, ...]]:
    """Where the option that decides something about the scene, or the name of a file, stands among the settings."""
    option = "resolution_m" if field in ("width", "height", "transform", "gsd_m") else field
    return {("settings", option), ("settings", "scene", option)}


def _path_of(option: str, settings: Mapping[Any, Any]) -> str:
    return next((str(settings[name]) for name in sorted(_option_of(option)) if name in settings), option)


def _flag(option: str) -> str:
    for unit in _UNITS:
        option = option.removesuffix(unit)
    return f"--{option.replace('_', '-')}"


def _was(what: str, old: Any, new: Any) -> str:
    if isinstance(old, bool) or isinstance(new, bool):
        return f"{what} was {'given' if old else 'left out'}, is {'given' if new else 'left out'}"
    return f"{what} was {_shown(old)}, is {_shown(new)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "left out" if value is None else str(value)
