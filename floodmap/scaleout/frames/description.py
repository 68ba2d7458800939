"""Description of a product for the JSON report: frames, model, settings and versions on which the product depends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from floodmap.description import described_options, jsonable, versions
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.inference.prediction import no_notes
from floodmap.options import SegmentOptions
from floodmap.scaleout.frames.listing import Frame, FrameList
from floodmap.scaleout.frames.placement import Placement

_ROLES = ("train", "val", None)
"""Roles of a picture in the training of a model, the most important first."""


def describe_product(
    grid: GeoGrid, listed: FrameList, described: Sequence[tuple[Frame, Mapping[str, Any] | str]],
    options: SegmentOptions, product_crs: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Describe a product in a dictionary of JSON types, with the keys of `pipeline.describe` and the key `frames`.

    Args:
        grid: grid of the product.
        listed: all frames, with those that could not be used.
        described: each frame with the description of its segmentation, or with the error message if it failed.
        options: settings of the run.
        product_crs: CRS of the product that the user chose; None: chosen from the frames.
    """
    own = [settings for _, settings in described if not isinstance(settings, str)]
    fingerprints = dict(listed.files.fingerprints)
    if options.permanent_water is not None:
        fingerprints["permanent_water"] = of_input(options.permanent_water)
    failed = [(one.source, one.why) for one in listed.failed]
    failed += [(frame.source, why) for frame, why in described if isinstance(why, str)]
    about = {
        "source": _source(grid, [one["source"] for one in own]),
        "model": _model([one["model"] for one in own]),
        "frames": {
            "count": len(listed.frames) + len(listed.failed) + len(listed.outside),
            "segmented": [_frame(one["source"]) for one in own],
            "failed": [{"name": source.label, "why": why} for source, why in failed],
            "outside_aoi": [source.label for source in listed.outside],
        },
        "settings": {**described_options(options, fingerprints), "product_crs": product_crs},
        "versions": versions(),
    }  # fmt: skip
    described_product: dict[str, Any] = jsonable(about)
    return described_product


def _source(grid: GeoGrid, sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entry `source`. Bands and nodata value are those of the first frame."""
    first = sources[0]
    prints = [one["fingerprint"] for one in sources]
    digest = hashlib.sha256(" ".join(map(str, prints)).encode()).hexdigest()
    used = any(one["near_infrared"]["used"] for one in sources)
    return {
        "name": "1 frame" if len(sources) == 1 else f"{len(sources)} frames",
        "fingerprint": None if None in prints else digest,
        "width": grid.width,
        "height": grid.height,
        "crs": grid.crs.to_string(),
        "transform": list(grid.transform)[:6],
        "gsd_m": grid.gsd_m,
        "bands": first["bands"],
        "near_infrared": {**first["near_infrared"], "used": used},
        "nodata": first["nodata"],
        "date": max(one["date"] for one in sources),
        "date_of": "picture" if all(one["date_of"] == "picture" for one in sources) else "file",
    }


def _model(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    role = min((one["seen_in_training"] for one in models), key=_ROLES.index)
    return {**models[0], "seen_in_training": role}


def _frame(source: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("name", "fingerprint", "width", "height", "crs", "gsd_m", "bands", "date", "date_of")
    return {key: source[key] for key in keys}


def product_notes(frames: Iterable[tuple[Frame, Placement, Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """Return the notes on the windows of all frames; for the keys see `inference.prediction.predict`.

    Args:
        frames: each segmented frame, its position in the product, and the notes on its strips.

    Returns:
        One dictionary for all frames. Each number, such as that of the windows, is the sum over all strips of all
        frames. The rectangles of failed windows are in pixels of the product; the key `frame` has the
        name of the frame.
    """
    total = no_notes()
    for frame, placement, strips in frames:
        for notes in strips:
            total |= {key: total[key] + notes[key] for key in total if key != "failed"}
        windows = {tuple(one["window"].values()): one for notes in strips for one in notes["failed"]}
        for one in windows.values():
            place = asdict(placement.to_product(Window(**one["window"])))
            total["failed"].append({"window": place, "why": one["why"], "frame": frame.source.label})
    return total
