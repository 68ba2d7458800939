"""Results written once before the first window is run, of a scene of two pixels: what cannot be written shows then.

A format may be unable to hold a CRS, a field or a name, which only the library that writes it knows. After hours of
windows that would come too late. Writing takes a tenth of a second, but what writes polygons takes half a second to
load and 90 MB while windows run; so the command has another process load it while the model is loaded, and end before
the first window.
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
from floodmap.output.helpers import Process, answering, described, error_of
from floodmap.strips.codes import NODATA

if TYPE_CHECKING:
    from floodmap.output.finishing import Finishing


def rehearse(finishing: Finishing, scratch: Path, helper: Helper | None = None) -> None:
    """Write everything that a run will write, of two pixels where the scene lies, flood and unobserved; delete it.

    Args:
        finishing: of the run.
        scratch: a folder on the disk of the results.
        helper: does it, unless what it takes is loaded here anyway; None: it is done here.

    Raises:
        OutputError: something cannot be written; one line says what, and why.
    """
    if helper is None or is_loaded() or not helper.ask(finishing, scratch):
        perform(finishing, scratch)


def is_loaded() -> bool:
    """Whether what writes polygons is loaded in this process."""
    return "geopandas" in sys.modules


def perform(finishing: Finishing, scratch: Path) -> None:
    """As `rehearse`, in this process."""
    from floodmap.output.placing import refuse_misplaced

    grid = finishing.grid
    across, down = grid.width, grid.height / 2
    with (
        writing(finishing.out),
        tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=scratch) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the run itself will say it
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
    """Strips of a scene of two pixels, as `journal.Strips` gives them: flood above, unobserved below."""

    def __init__(self, folder: Path) -> None:
        self.scratch = folder

    def strips(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """First row and codes (2, 1)."""
        yield 0, np.array([[100], [NODATA]], np.uint8)

    def notes(self) -> list[Mapping[str, Any]]:
        """Of a strip of no windows."""
        return [{"run": 0, "skipped": 0, "skipped_by_coarse": 0, "failed": [], "pixels": 0}]


class Helper:
    """Another process, which loads what writes results and waits to rehearse a run, once.

    Where none can be begun, or it is ended, nothing is lost: it says that it did not do it.
    """

    def __init__(self) -> None:
        self.process = Process(__name__)
        atexit.register(self.dismiss)

    def ask(self, finishing: Finishing, scratch: Path) -> bool:
        """Rehearse; whether that was done.

        Raises:
            FloodmapError: what went wrong.
        """
        self.process.say([finishing.to_json(), str(scratch.absolute())])
        kind, what = self.process.hear() or ("ended", [])
        self.dismiss()
        if kind == "error":
            raise error_of(what)
        return kind == "done"

    def dismiss(self) -> None:
        """End the process, if there is one."""
        atexit.unregister(self.dismiss)
        self.process.end()


def main() -> None:
    """Be the other process."""
    say = answering()
    logging.getLogger("floodmap").addHandler(logging.NullHandler())
    logging.getLogger("floodmap").propagate = False
    import geopandas  # noqa: F401 (takes a second, which is at hand now)

    from floodmap.output import placing, polygons, vector_files  # noqa: F401
    from floodmap.output.finishing import Finishing

    if line := sys.stdin.readline():  # or nobody wants it
        try:
            task, scratch = json.loads(line)
            perform(Finishing.from_json(task), Path(scratch))
        except FloodmapError as error:
            say("error", described(error))
        except BaseException as error:
            say("failed", described(error))  # it is tried again where a traceback is of use
        else:
            say("done", None)
    os._exit(0)


if __name__ == "__main__":
    main()
