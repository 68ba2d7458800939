"""Differences between two runs are reported by options of the command line."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from floodmap._runtime.changes import changes
from floodmap._runtime.sizes import in_bytes

OLD: dict[str, Any] = {
    "source": {
        "name": "s.tif", "fingerprint": "a", "width": 100, "height": 80, "crs": "EPSG:32633", "gsd_m": 0.5,
        "bands": [1, 2, 3], "nodata": None, "date": "2020",
    },
    "model": {"name": "finetuned", "sha256": "b", "runs_on": "cpu float32"},
    "settings": {
        "scene": {"resolution_m": None, "bands": None, "mask": "a/clouds.gpkg"}, "prompts": "auto", "threshold": 0.5,
        "min_area_m2": 6.25, "simplify_m": 0.5, "exhaustive": False, "fingerprints": {"mask": "c"},
    },
    "versions": {"floodmap": "0.1.0"},
}  # fmt: skip


def changed(**values: Any) -> dict[str, Any]:
    """The settings with some leaves replaced, named by their path."""
    new = deepcopy(OLD)
    for path, value in values.items():
        *above, last = path.split("__")
        place = new
        for name in above:
            place = place[name]
        place[last] = value
    return new


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, []),
        ({"settings__threshold": 0.6}, ["--threshold was 0.5, is now 0.6"]),
        ({"settings__exhaustive": True}, ["--exhaustive was left out, is now given"]),
        ({"settings__min_area_m2": 9.0}, ["--min-area was 6.25, is now 9.0"]),
        ({"settings__prompts": "p.gpkg"}, ["--prompts was auto, is now p.gpkg"]),
        ({"settings__scene__bands": (4, 3, 2), "source__bands": (4, 3, 2)}, ["--bands was left out, is now 4,3,2"]),
        (
            {"settings__scene__resolution_m": 1.0, "source__gsd_m": 1.0, "source__width": 5, "settings__simplify_m": 1},
            ["--resolution was left out, is now 1.0"],
        ),
        ({"source__fingerprint": "z", "source__date": "2021"}, ["the scene's file, or one beside it, has changed"]),
        ({"source__date": "2021"}, ["the scene's date was 2020, is now 2021"]),
        ({"model__sha256": "z"}, ["the model's weights differ"]),
        ({"model__name": "mine"}, ["--model was finetuned, is now mine"]),
        ({"model__runs_on": "cuda bfloat16"}, ["the model ran on cpu float32, now on cuda bfloat16"]),
        ({"versions__floodmap": "0.2"}, ["floodmap 0.1.0 was used, this is 0.2"]),
        ({"settings__fingerprints__mask": "z"}, ["clouds.gpkg (--mask) has changed"]),
        (
            {"settings__fingerprints": {}, "settings__scene__mask": None},
            ["--mask was a/clouds.gpkg, is now left out"],
        ),
        ({"settings__new_one": 3}, ["--new-one was left out, is now 3"]),
    ],
)  # fmt: skip
def test_a_changed_setting_is_named_once_and_by_its_option(values: dict[str, Any], said: list[str]) -> None:
    assert changes(OLD, changed(**values)) == said


@pytest.mark.parametrize("broken", [{}, {"source": None}, {"source": 3, "settings": []}])
def test_settings_of_another_shape_differ(broken: dict[str, Any]) -> None:
    assert changes(broken, OLD)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345, "12 kB"), (999_600, "1.0 MB"), (10_000_000, "10 MB"),
        (3_400_000_000, "3.4 GB"), (5 * 10**15, "5,000 TB"),
    ],
)  # fmt: skip
def test_sizes_are_in_bytes(size: int, said: str) -> None:
    assert in_bytes(size) == said
