"""Correction of a finished result by points, and the way back to the automatic result."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from floodmap._runtime.changes import changes
from floodmap.analysis.flood_map import files_of, open_flood_map
from floodmap.correction.changes import ChangedCodes, changes_by_points, touched
from floodmap.correction.features import Features, can_be_quick
from floodmap.description import jsonable
from floodmap.errors import OutputError, PromptError, writing
from floodmap.imagery.scene import Scene
from floodmap.inference.prompt_files import read_prompts
from floodmap.inference.tiling import Grid
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.options import SegmentOptions
from floodmap.output.finishing import Finishing
from floodmap.output.results import FloodMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """A correction that can be made: a finished automatic result with its features, and the points of a user."""

    features: Features
    points: Prompts
    """Points in pixels of the scene; no points: the automatic result is brought back."""

    @classmethod
    def of(
        cls, scene: Scene, out: Path, name: str, options: SegmentOptions, settings: Mapping[str, Any]
    ) -> Correction | None:
        """Find out whether a run can be made as the correction of a finished result.

        Args:
            scene: the scene.
            out: folder of the results.
            name: beginning of the file names.
            options: settings of the run.
            settings: description of the run; see `description.describe`.

        Returns:
            The correction. None if the option `resume` is not set, or if there is no result with features.

        Raises:
            OutputError: the result has features, but other settings than this run; or it has been reviewed.
            PromptError, VectorError: the points cannot be used, or there are boxes.
        """
        if not options.resume or (features := Features.of(out, name)) is None:
            return None
        if differing := changes(_automatic(features.settings), _automatic(settings)):
            if options.overwrite:
                return None
            raise OutputError(
                f"{features.folder} is of a run with other settings ({'; '.join(differing)}); start afresh with "
                "--overwrite"
            )
        _refuse_reviewed(out, name)
        if options.prompts == "auto":
            return cls(features=features, points=Prompts.none())
        points = read_prompts(options.prompts, scene.grid, may_be_empty=True)
        if len(points.boxes_xyxy):
            raise PromptError(
                f"{options.prompts} has polygons, and a box changes the whole scene: leave only points in the file, or "
                "start afresh with --overwrite"
            )
        return cls(features=features, points=points)

    def make(
        self,
        scene: Scene,
        grid: Grid,
        segmenter: Segmenter,
        options: SegmentOptions,
        finishing: Finishing,
        scratch: Path,
        report: Callable[[int, int], None],
    ) -> FloodMap:
        """Write the corrected result in place of the result that is there.

        Args:
            scene: the scene.
            grid: windows of the scene.
            segmenter: the model of the automatic result.
            options: settings of the run.
            finishing: settings for writing the results.
            scratch: folder for temporary files, on the disk of the results.
            report: function that receives the number of finished windows, and the number of all windows with points.

        Raises:
            ModelError: the model fails on a window; nothing is changed.
            OutputError: a file cannot be written. The same run goes on later.
        """
        json_report = finishing.out / f"{finishing.name}.json"
        if not len(self.points.points_xy):
            return self._brought_back(json_report)
        from floodmap.correction.quick import (  # its libraries take time to import
            count_changed,
            described,
            prepared,
            write_quickly,
        )

        quick = can_be_quick(finishing)
        with ThreadPoolExecutor(1, thread_name_prefix="outlines") as executor:
            boxes = [window for *_, window, _ in touched(grid, self.points)]
            change = executor.submit(prepared, self.features, boxes, finishing.grid) if quick else None
            found = changes_by_points(
                scene, grid, segmenter, self.features, self.points, exhaustive=options.exhaustive, report=report
            )
        codes = ChangedCodes(self.features, grid, found, scratch)
        automatic = self.features.automatic.report
        about = {
            "points": _counts(self.points), "windows": len(found),
            "automatic_run_finished": automatic["run"]["finished"],
        }  # fmt: skip
        finishing = replace(finishing, warnings=tuple(automatic["warnings"]))
        scene.refuse_changed()
        with writing(json_report):
            json_report.unlink(missing_ok=True)  # it marks the other files as complete
        if change:
            return write_quickly(finishing, self.features, codes, change.result(), about)
        changed = sum(count_changed(*of_block) for _, _, *of_block in codes.changed_blocks())
        return described(finishing, about, changed).run(codes, at_once=True)

    def _brought_back(self, json_report: Path) -> FloodMap:
        """Copy the files of the automatic result to their folder, the JSON report last."""
        automatic, folder = self.features.automatic, json_report.parent
        with writing(folder), tempfile.TemporaryDirectory(prefix=".automatic-", dir=folder) as scratch:
            copies = [Path(shutil.copy2(file, scratch)) for file in files_of(automatic)]
            json_report.unlink(missing_ok=True)
            for copy in sorted(copies, key=lambda one: one.name == json_report.name):
                copy.replace(folder / copy.name)
        return open_flood_map(json_report)


def _automatic(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a run as it would be without points, and without the batch size.

    Windows with points are predicted one by one, so that the batch size does not matter.
    """
    described: dict[str, Any] = jsonable(dict(settings))
    chosen = {key: value for key, value in described["settings"].items() if key != "batch_size"}
    chosen["prompts"] = "auto"
    chosen["fingerprints"] = {key: value for key, value in chosen["fingerprints"].items() if key != "prompts"}
    return {**described, "settings": chosen}


def _refuse_reviewed(out: Path, name: str) -> None:
    path = out / f"{name}.json"
    try:
        is_reviewed = "review" in json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # an interrupted correction leaves no report
        return
    if is_reviewed:
        raise OutputError(
            f"{path} is a reviewed result; bring the model's result back before points are added: "
            f"floodmap review {path} --undo"
        )


def _counts(points: Prompts) -> dict[str, int]:
    return {"flood": int((points.labels == 1).sum()), "dry": int((points.labels == 0).sum())}
