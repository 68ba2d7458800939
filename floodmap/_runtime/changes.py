"""Text about the differences between the settings of two runs. The text names the options of the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_MISSING = object()
_UNITS = ("_m2", "_m")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the differences between the settings of two runs, such as "--threshold was 0.5, is 0.6".

    Args:
        old: settings of the earlier run: the result of `pipeline.describe`, read back from JSON.
        new: settings of this run: the result of `pipeline.describe`.

    Returns:
        One line of text for each difference; an empty list if the settings are equal.
    """
    before, now = _leaves(old), _leaves(json.loads(json.dumps(new, default=str)))
    names = [*now, *(name for name in before if name not in now)]
    differing = {name for name in names if before.get(name, _MISSING) != now.get(name, _MISSING)}
    lines = [_line(name, before, now, differing) for name in names if name in differing]
    return list(dict.fromkeys(line for line in lines if line))


def _leaves(settings: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return nested settings as a flat mapping from the path of a value (a tuple of keys) to the value.

    For example, {"model": {"name": "x"}} becomes {("model", "name"): "x"}.

    Args:
        settings: nested mappings, or a value that is not a mapping.
        above: keys that lead from the outermost mapping to `settings`.
    """
    if isinstance(settings, Mapping):
        return {name: leaf for key, value in settings.items() for name, leaf in _leaves(value, (*above, key)).items()}
    return {above: settings}


def _line(
    name: tuple[str, ...], before: Mapping[Any, Any], now: Mapping[Any, Any], differing: set[tuple[str, ...]]
) -> str:
    """Return the line of text for one setting that differs; empty if another line explains the difference.

    Args:
        name: path of the setting (a tuple of keys).
        before: settings of the earlier run, flat as returned by `_leaves`.
        now: settings of this run, flat as returned by `_leaves`.
        differing: paths of all settings that differ.
    """
    old, new = before.get(name), now.get(name)
    match name:
        case ("frames", _):
            return "the frames, or files of frames, have changed"
        case ("source", _) if any(path[0] == "frames" for path in differing):
            return ""
        case ("source", "fingerprint"):
            return "the scene's file, or one beside it, has changed"
        case ("model", "sha256"):
            return "the model's weights differ"
        case ("model", "runs_on"):
            return f"the model ran on {old}, now on {new}"
        case ("model", "mixed"):
            return "the kinds of the workers differ (--allow-mixed)"
        case ("model", "name"):
            return _change_text("--model", old, new)
        case ("versions", library):
            return f"{library} {old} was used, this is {new}"
        case ("source", "near_infrared", _):
            return ""  # this value follows from the bands, the prompts and the model
        case ("source", field):
            # No line if the option that sets this field has a line, or if a changed file explains the new date.
            if _option_of(field) & differing or (field == "date" and ("source", "fingerprint") in differing):
                return ""
            return _change_text(f"the scene's {field.removesuffix('_m')}", old, new)
        case ("settings", "fingerprints", option):
            given = _path_of(option, now)
            return "" if _option_of(option) & differing else f"{PurePath(given).name} (--{option}) has changed"
        case ("settings", "min_area_m2" | "simplify_m") if ("source", "gsd_m") in differing:
            return ""  # the default is a number of pixels, so it changes with the ground sample distance
        case ("settings", *_, option):
            return _change_text(_flag(option), old, new)
    return _change_text(" ".join(name), old, new)


def _option_of(field: str) -> set[tuple[str, ...]]:
    """Return the two possible paths of an option in the result of `pipeline.describe`.

    For `mask`, the paths are ("settings", "mask") and ("settings", "scene", "mask").

    Args:
        field: name of an option, such as `mask`, or a key below `source` in the result of `pipeline.describe`. The
            keys `width`, `height`, `transform` and `gsd_m` stand for the option `resolution_m`.
    """
    option = "resolution_m" if field in ("width", "height", "transform", "gsd_m") else field
    return {("settings", option), ("settings", "scene", option)}


def _path_of(option: str, settings: Mapping[Any, Any]) -> str:
    """Return the path or GDAL name of the input file that the user gave for an option.

    If the settings lack the option, the result is the name of the option. `settings` are flat as returned by `_leaves`.
    """
    return next((str(settings[name]) for name in sorted(_option_of(option)) if name in settings), option)


def _flag(option: str) -> str:
    """Return the command-line option of a setting: `min_area_m2` becomes `--min-area`."""
    for unit in _UNITS:
        option = option.removesuffix(unit)
    return f"--{option.replace('_', '-')}"


def _change_text(what: str, old: Any, new: Any) -> str:
    if isinstance(old, bool) or isinstance(new, bool):
        return f"{what} was {'given' if old else 'left out'}, is now {'given' if new else 'left out'}"
    return f"{what} was {_value_text(old)}, is now {_value_text(new)}"


def _value_text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "left out" if value is None else str(value)
