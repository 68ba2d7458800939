"""The rehearsal: a trial write of all results for a scene of two pixels, before the first window is computed.

Some formats cannot hold every CRS, field or name, and the error is raised only when a file is written. After hours of
inference, the error would come too late. Writing two pixels takes a tenth of a second. But the libraries that write
polygons take half a second to load, and would occupy 90 MB while windows are computed. The command line therefore
starts a helper process. The helper process loads the libraries at the same time as the main process loads the model. It
writes the two pixels, and ends before the first window is computed.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from floodmap.errors import FloodmapError, OutputError, writing
from floodmap.geo.geogrid import GeoGrid
from floodmap.output.helpers import Process, error_from_json, error_to_json, open_channel
from floodmap.strips.codes import NODATA

if TYPE_CHECKING:
    from floodmap.output.finishing import Finishing


def rehearse(
    finishing: Finishing, scratch: Path, helper: Helper | None = None, passed: set[Hashable] | None = None
) -> None:
    """Write all results of a run for a scene of two pixels, one flood and one unobserved, and delete the results.

    The two pixels lie inside the scene, and have the scene's CRS.

    Args:
        finishing: settings for writing the results of the run.
        scratch: folder for the temporary results, on the disk of the final results.
        helper: helper process that writes the results, unless the libraries that write polygons are loaded in this
            process already. None: the results are written in this process.
        passed: kinds of runs that have passed a rehearsal before. A run of one of these kinds needs none. The kind of
            this run is added. None: this run is always rehearsed.

    Raises:
        OutputError: a result cannot be written.
    """
    kind = _kind(finishing)
    if passed is not None and kind in passed:
        return
    if helper is None or is_loaded() or not helper.ask(finishing, scratch):
        perform(finishing, scratch)
    if passed is not None:
        passed.add(kind)


def _kind(finishing: Finishing) -> Hashable:
    """Return the properties of a run on which the result of its rehearsal depends.

    The position of the scene is left out, because scenes of one CRS that are segmented together are near each other.
    """
    grid = finishing.grid
    a, b, _, d, e, _ = grid.transform[:6]
    pixel = tuple(f"{value:.2g}" for value in (a, b, d, e))  # a pixel is the tolerance of `placing.refuse_misplaced`
    return finishing.out, finishing.formats, grid.crs and grid.crs.to_wkt(), pixel


def is_loaded() -> bool:
    """Return True if the libraries that write polygons are loaded in this process."""
    return "geopandas" in sys.modules


def perform(finishing: Finishing, scratch: Path) -> None:
    """Write the results for two pixels in this process, and delete the results.

    Args:
        finishing: settings for writing the results of the run.
        scratch: folder for the temporary results, on the disk of the final results.

    Raises:
        OutputError: a result cannot be written.
    """
    from floodmap.output.placing import refuse_misplaced

    grid = finishing.grid
    across, down = grid.width, grid.height / 2
    with (
        writing(finishing.out),
        tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=scratch) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # these warnings are issued during the run itself
        small = replace(
            finishing, grid=GeoGrid(grid.crs, grid.transform @ Affine.scale(across, down), (2, 1)),
            out=Path(folder), min_area_m2=0.0, simplify_m=0.0, permanent=None,
        )  # fmt: skip
        try:
            written = small.run(_TwoPixels(Path(folder)), at_once=True)
            centre = grid.transform @ (across / 2, down), grid.transform @ (across / 2 + 1, down + 1)
            for path in (written.mask_path, *written.layer_paths):
                refuse_misplaced(path, grid.crs, *centre)
        except FloodmapError as error:
            why = str(error).replace(folder, str(finishing.out))
            raise OutputError(
                f"{why}; the run stopped before the first window; choose other formats (--format) or another output "
                "folder, or bring the scene to another CRS first (gdalwarp -t_srs)"
            ) from error


class _TwoPixels:
    """Strips of a scene of two rows and one column, with the interface of `journal.Strips`.

    The upper pixel is flood, the lower pixel is unobserved.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def scratch(self) -> Path:
        """Folder for temporary files."""
        return self._folder

    def strips(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield one pair: the index of the first row, which is 0, and the codes of the two pixels, uint8 (2, 1)."""
        yield 0, np.array([[100], [NODATA]], np.uint8)

    def notes(self) -> list[Mapping[str, Any]]:
        """Return a list with the notes (`journal.Entry.notes`) of one strip; all counts are 0."""
        return [{"run": 0, "skipped": 0, "skipped_by_coarse": 0, "failed": [], "pixels": 0}]


class Helper:
    """A helper process for the rehearsal: it loads the libraries for writing, and writes all results of two pixels.

    `ask` waits for it. If the process cannot be started, is killed, or has an unexpected error, `ask` returns False.
    The caller then has to call `perform`, which does the same in the process of the caller.
    """

    def __init__(self) -> None:
        self.process = Process(__name__)
        atexit.register(self.dismiss)

    def ask(self, finishing: Finishing, scratch: Path) -> bool:
        """Send the settings of a run to the process, and wait until the process has written the results.

        Args:
            finishing: settings for writing the results of the run.
            scratch: folder for the temporary results, on the disk of the final results.

        Returns:
            True if all results for two pixels were written. False if it is unknown whether they can be written: the
            process could not be started, was killed, or had an error that is not a `FloodmapError`.

        Raises:
            FloodmapError: the process reports that a result cannot be written.
        """
        self.process.send([finishing.to_json(), str(scratch.absolute())])
        kind, content = self.process.receive() or ("ended", [])
        self.dismiss()
        if kind == "error":
            raise error_from_json(content)
        return kind == "done"

    def dismiss(self) -> None:
        """End the process, if it is running."""
        atexit.unregister(self.dismiss)
        self.process.end()


def main() -> None:
    """Run the helper process: load the libraries, read the settings of one run from stdin, and write the results."""
    send = open_channel()
    logging.getLogger("floodmap").addHandler(logging.NullHandler())
    logging.getLogger("floodmap").propagate = False
    import geopandas  # noqa: F401 (takes a second, while the model is loaded anyway)

    from floodmap.output import placing, polygons, vector_files  # noqa: F401
    from floodmap.output.finishing import Finishing

    if line := sys.stdin.readline():  # empty if the parent process ended without a task
        try:
            task, scratch = json.loads(line)
            perform(Finishing.from_json(task), Path(scratch))
        except FloodmapError as error:
            send("error", error_to_json(error))
        except BaseException as error:
            send("failed", error_to_json(error))  # the parent process tries again and shows its own traceback
        else:
            send("done", None)
    os._exit(0)


if __name__ == "__main__":
    main()
