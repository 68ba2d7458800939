"""A rehearsal: all results are written for a scene of two pixels before the first window, so that errors come early.

A format may be unable to hold a CRS, a field or a name, and only the library that writes the format raises the error.
After hours of windows the error would be too late. Writing two pixels takes a tenth of a second. But the libraries that
write polygons take half a second to load, and 90 MB while windows run. So the command starts a helper process. This
process loads the libraries while the model is loaded, and it ends before the first window.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
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


def rehearse(finishing: Finishing, scratch: Path, helper: Helper | None = None) -> None:
    """Write all results of a run for two pixels in the scene's place, one flood and one unobserved; then delete them.

    Args:
        finishing: settings of the run.
        scratch: a folder on the disk of the results.
        helper: the helper process, which is used if the libraries are not loaded in this process. None: the results are
            written in this process.

    Raises:
        OutputError: a result cannot be written.
    """
    if helper is None or is_loaded() or not helper.ask(finishing, scratch):
        perform(finishing, scratch)


def is_loaded() -> bool:
    """Return True if the libraries that write polygons are loaded in this process."""
    return "geopandas" in sys.modules


def perform(finishing: Finishing, scratch: Path) -> None:
    """Write the results for two pixels and delete them, in this process; for the arguments see `rehearse`."""
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
            out=Path(folder), min_area_m2=0.0, simplify_m=0.0,
        )  # fmt: skip
        try:
            written = small.run(_TwoPixels(Path(folder)), at_once=True)  # type: ignore[arg-type]
            centre = grid.transform @ (across / 2, down), grid.transform @ (across / 2 + 1, down + 1)
            for path in (written.mask_path, *written.layer_paths):
                refuse_misplaced(path, grid.crs, *centre)
        except FloodmapError as error:
            why = str(error).replace(folder, str(finishing.out))
            raise OutputError(
                f"{why}; found before any window was run: choose other formats (--format) or another output folder, "
                "or bring the scene to another CRS first (gdalwarp -t_srs)"
            ) from error


class _TwoPixels:
    """Strips of a scene of two pixels, with the interface of `journal.Strips`: flood above, unobserved below."""

    def __init__(self, folder: Path) -> None:
        self.scratch = folder

    def strips(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield one strip: its first row, and its codes, uint8 (2, 1)."""
        yield 0, np.array([[100], [NODATA]], np.uint8)

    def notes(self) -> list[Mapping[str, Any]]:
        """Return the notes of one strip, with all counts 0."""
        return [{"run": 0, "skipped": 0, "skipped_by_coarse": 0, "failed": [], "pixels": 0}]


class Helper:
    """A helper process that loads the libraries which write results, and writes the results of one run for two pixels.

    If the process cannot be started, or is killed, `ask` returns False; the caller then writes the results itself.
    """

    def __init__(self) -> None:
        self.process = Process(__name__)
        atexit.register(self.dismiss)

    def ask(self, finishing: Finishing, scratch: Path) -> bool:
        """Send a run to the process and wait; return True if the process has written all results for two pixels.

        Raises:
            FloodmapError: a result cannot be written.
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
    """Run the helper process."""
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
