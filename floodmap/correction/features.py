"""Features: what corrections of a finished result need, in a folder beside the result."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from floodmap._runtime.files import write_whole
from floodmap.analysis.flood_map import files_of, open_flood_map
from floodmap.errors import writing
from floodmap.imagery.scene import Scene
from floodmap.inference.coarse_map import CoarsePart
from floodmap.inference.observed import Observed
from floodmap.inference.prompting import CoarsePrompter, Prompter
from floodmap.output.census import Census, take_census
from floodmap.output.finishing import Finishing
from floodmap.output.results import FloodMap
from floodmap.strips.codes import THRESHOLD
from floodmap.strips.journal import Journal, Strips
from floodmap.strips.strip import packed

if TYPE_CHECKING:
    from floodmap.correction.outlines.stored import Outlines

COARSE = "coarse.npz"
"""Name of the file with the result of the coarse pass."""
_MARKER, _FILES, _STRIPS, _WINDOWS, _OUTLINES = "features.json", "files", "strips", "windows", "outlines"
_KEPT_WINDOWS = 128
"""Largest number of predictions of windows that are kept. One of 1024 x 1024 pixels takes about 0.5 MB."""


def features_folder(out: Path, name: str) -> Path:
    """Return the folder of the features of a result, `OUT/NAME_features`."""
    return out / f"{name}_features"


def save_coarse(path: Path) -> Callable[[Prompter], None]:
    """Return a function that writes the coarse map of a prompter to a file, for `Features.prompter`."""

    def save(prompter: Prompter) -> None:
        if not isinstance(prompter, CoarsePrompter):
            return
        height, width = prompter.coarse.shape
        codes = np.frombuffer(packed(prompter.coarse[slice(0, height)]), np.uint8)
        with writing(path):
            np.savez(path, codes=codes, shape=np.array([height, width]), observed=prompter.observed.squares)

    return save


def keep_features(flood_map: FloodMap, journal: Journal, settings: Mapping[str, Any], finishing: Finishing) -> None:
    """Keep what corrections of a finished result need. The strips are moved out of the journal.

    Args:
        flood_map: the automatic result, complete.
        journal: journal of its run. Its folder for temporary files has the file `COARSE`, if there was a coarse pass in
            this run.
        settings: description of the run (`description.describe`).
        finishing: settings with which the results were written.

    Raises:
        OutputError: a file cannot be written.
    """
    notes = journal.notes()
    census = take_census(journal.strips(), finishing.grid, threshold=THRESHOLD)
    final = features_folder(flood_map.report_path.parent, flood_map.name)
    with writing(final):
        folder = Path(tempfile.mkdtemp(dir=journal.scratch))
        (folder / _FILES).mkdir()
        for file in files_of(flood_map):
            shutil.copy2(file, folder / _FILES / file.name)
        if (coarse := journal.scratch / COARSE).exists():
            coarse.rename(folder / COARSE)
        if can_be_quick(finishing):
            from floodmap.correction.outlines.recording import record  # its libraries take time to import

            record(folder / _OUTLINES, journal.strips(), **finishing.of_polygons())
        (folder / _STRIPS).mkdir()
        for strip in journal.files():
            strip.rename(folder / _STRIPS / strip.name)
        (folder / _WINDOWS).mkdir()
        ground = None if census.ground_m2 is None else census.ground_m2.tolist()
        marker = {"settings": settings, "pixels": census.pixels.tolist(), "ground_m2": ground, "notes": notes}
        write_whole(folder / _MARKER, json.dumps(marker, default=str))
        remove_features(final.parent, flood_map.name)
        folder.chmod(0o755)  # `mkdtemp` makes folders that only their owner can read
        folder.rename(final)


def can_be_quick(finishing: Finishing) -> bool:
    """Return False if results depend on more than the changed windows: permanent water, layers of Copernicus EMS."""
    return finishing.permanent is None and not finishing.with_permanent and finishing.cems is None


def remove_features(out: Path, name: str) -> None:
    """Delete the features of a result, if there are any."""
    folder = features_folder(out, name)
    with suppress(FileNotFoundError):
        (folder / _MARKER).unlink()  # first, so that an incomplete folder is not taken for features
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Features:
    """What corrections of a finished result need."""

    folder: Path
    marker: Mapping[str, Any]
    """Content of the file that marks the folder as complete."""

    @classmethod
    def of(cls, out: Path, name: str) -> Features | None:
        """Read the features of a result; None if there are none, or if the folder is incomplete."""
        folder = features_folder(out, name)
        try:
            return cls(folder, json.loads((folder / _MARKER).read_text("utf-8")))
        except (OSError, ValueError):
            return None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Description of the automatic run."""
        described: Mapping[str, Any] = self.marker["settings"]
        return described

    @cached_property
    def automatic(self) -> FloodMap:
        """The automatic result, in the folder of the features.

        Raises:
            SceneError: a file is missing.
        """
        return open_flood_map(self.folder / _FILES)

    @property
    def notes(self) -> list[Mapping[str, Any]]:
        """Notes on the windows of the automatic run, see `Strips.notes`."""
        return list(self.marker["notes"])

    @property
    def strips(self) -> Strips:
        """Codes of the automatic result."""
        return Strips(self.folder / _STRIPS)

    def outlines(self) -> Outlines | None:
        """Read the outlines of the automatic result; None if they were not kept."""
        from floodmap.correction.outlines.stored import Outlines  # its libraries take time to import

        return Outlines.load(self.folder / _OUTLINES)

    def census(self, threshold: int) -> Census:
        """Return the pixels and areas of the automatic result."""
        ground = self.marker["ground_m2"]
        return Census(
            pixels=np.array(self.marker["pixels"], np.int64), threshold=threshold,
            ground_m2=None if ground is None else np.array(ground, float),
        )  # fmt: skip

    def prompter(self, scene: Scene) -> CoarsePrompter | None:
        """Return the prompter with the result of the coarse pass; None if there is none."""
        path = self.folder / COARSE
        if not path.exists():
            return None
        with np.load(path) as kept:
            height, width = (int(side) for side in kept["shape"])
            codes = CoarsePart((height, width), 0, height, kept["codes"].tobytes())
            return CoarsePrompter(scene, codes, Observed.of(kept["observed"]))

    def save_coarse(self, prompter: Prompter) -> None:
        """Keep the coarse map of a prompter, if the run of the result did not compute it."""
        save_coarse(self.folder / COARSE)(prompter)

    def window_file(self, key: str) -> Path:
        """Return the path of the kept prediction of a window. `key` depends on the window and its points."""
        return self.folder / _WINDOWS / f"{key}.lz4"

    def trim(self) -> None:
        """Delete the oldest predictions of windows, if there are more than `_KEPT_WINDOWS`."""
        files = sorted((self.folder / _WINDOWS).glob("*.lz4"), key=lambda file: file.stat().st_mtime_ns)
        for file in files[:-_KEPT_WINDOWS]:
            file.unlink(missing_ok=True)
