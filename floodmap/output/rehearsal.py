"""Results written once before the first window is run, of a scene of two pixels: what cannot be written shows then.

A format may be unable to hold a CRS, a field or a name, which only the library that writes it knows. After hours of
windows that would come too late. Writing takes a tenth of a second, but what writes polygons takes half a second to
load and 90 MB while windows run; so the command has another process load it while the model is loaded, and end before
the first window.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from floodmap.errors import FloodmapError, OutputError, writing
from floodmap.geo.geogrid import GeoGrid
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
            for path in (written.mask, *written.layers):
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
        return [{"run": 0, "skipped": 0, "foregone": 0, "failed": [], "pixels": 0}]


class Helper:
    """Another process, which loads what writes results and waits to rehearse a run, once.

    Where none can be begun, or it is ended, nothing is lost: it says that it did not do it.
    """

    def __init__(self) -> None:
        # As multiprocessing's `spawn` does it, but without running the user's script again.
        program = f"import sys; sys.path[:] = {sys.path!r}; from floodmap.output.rehearsal import serve; serve()"
        self._process: subprocess.Popen[bytes] | None = None
        with suppress(OSError, ValueError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        atexit.register(self.dismiss)

    def ask(self, finishing: Finishing, scratch: Path) -> bool:
        """Rehearse; whether that was done.

        Raises:
            FloodmapError: what went wrong.
        """
        answer: BaseException | bool = False
        if self._process is not None and self._process.stdin and self._process.stdout:
            with suppress(OSError, EOFError, pickle.UnpicklingError):
                pickle.dump((finishing, scratch.absolute()), self._process.stdin)
                self._process.stdin.flush()
                answer = pickle.load(self._process.stdout)
        self.dismiss()
        if isinstance(answer, FloodmapError):
            raise answer
        return answer is True

    def dismiss(self) -> None:
        """End the process, if there is one."""
        atexit.unregister(self.dismiss)
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(OSError), process:
                process.kill()


def serve() -> None:
    """Be the other process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever began this one is told, and ends it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    logging.getLogger("floodmap").addHandler(logging.NullHandler())
    logging.getLogger("floodmap").propagate = False
    import geopandas  # noqa: F401 (takes a second, which is at hand now)

    from floodmap.output import finishing, placing, polygons  # noqa: F401

    answer: BaseException | bool = True
    try:
        perform(*pickle.load(sys.stdin.buffer))
    except EOFError:  # nobody wants it
        os._exit(0)
    except FloodmapError as error:
        answer = OutputError(str(error))
    except BaseException:
        answer = False  # it is tried again where a traceback is of use
    with suppress(OSError):
        answers.write(pickle.dumps(answer))
        answers.flush()
    os._exit(0)
