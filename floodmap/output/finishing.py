"""Writing of a scene's results from finished strips: rasters and vector files, and at the end the JSON report."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affine import Affine
from rasterio.crs import CRS

from floodmap._runtime.memory import trim_heap
from floodmap.geo.geogrid import GeoGrid
from floodmap.masks.pairing import unobserved_files
from floodmap.masks.permanent_water import PermanentWater, StripSource, open_reference, separated
from floodmap.options import FORMATS, Format
from floodmap.output.census import Census, Tally
from floodmap.output.cog import write_rasters
from floodmap.output.paths import EVERY_FILE, result_paths
from floodmap.output.results import FloodMap, write_report
from floodmap.strips.codes import OUTSIDE

if TYPE_CHECKING:
    from floodmap.output.polygons import Polygons

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finishing:
    """Settings for writing a scene's results from finished strips: files, thresholds and formats."""

    source: str
    """Name of the scene's file, without the folder."""
    grid: GeoGrid
    """Working grid: CRS, affine transform, and numbers of rows and columns of the scene as it is segmented."""
    date: datetime
    """Date on which the picture was taken, if the scene's file has this date; else the date of the file."""
    out: Path
    """Folder for the results."""
    name: str
    """Beginning of the results' file names."""
    threshold: int
    """Threshold in per cent: codes from the threshold to 100 are flood."""
    min_area_m2: float
    """Minimum geodesic area in square metres; smaller flood polygons are dropped."""
    simplify_m: float
    """Tolerance in metres of the simplification of outlines, see `polygonize`; 0: outlines are not simplified."""
    formats: tuple[Format, ...]
    """Vector formats to write."""
    files: Mapping[str, bool]
    """Files of the run besides rasters, JSON report and vector files: arguments of `paths.result_paths`.

    The reports and the STAC item are written after the results, and not here."""
    settings: Mapping[str, Any]
    """All settings on which the results depend, for the JSON report."""
    started: float
    """Time at which the run began, in seconds since the epoch."""
    warnings: tuple[str, ...] = ()
    """Warnings about the results for the user, one line for each warning."""
    permanent: PermanentWater | None = None
    """Reference of permanent water; None: all water in the strips is flood, unless its codes say otherwise."""
    with_permanent: bool = False
    """True: the results have a layer of permanent water, also without a reference."""
    flood_type: str = "unknown"
    """Kind of flood in the layers of Copernicus EMS."""
    workers: int = 0
    """Number of workers that compute the windows; 0: the process of the run computes them."""

    @property
    def cems(self) -> str | None:
        """Kind of flood in the layers of Copernicus EMS; None: such layers are not written."""
        return self.flood_type if self.files.get("cems") else None

    def to_json(self) -> str:
        """Serialize the settings as JSON, for `from_json` in another process."""
        grid = {"crs": self.grid.crs and self.grid.crs.to_wkt(), "transform": [*self.grid.transform][:6]}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        grid["shape_hw"] = self.grid.shape_hw
        values["permanent"] = self.permanent and asdict(self.permanent)
        return json.dumps({**values, "grid": grid, "date": self.date.isoformat(), "out": str(self.out)})

    @classmethod
    def from_json(cls, text: str) -> Finishing:
        """Restore the settings from the text that `to_json` returned."""
        values = json.loads(text)
        grid = values["grid"]
        crs = CRS.from_wkt(grid["crs"]) if grid["crs"] else None
        typed = {
            "grid": GeoGrid(crs, Affine(*grid["transform"]), tuple(grid["shape_hw"])), "out": Path(values["out"]),
            "date": datetime.fromisoformat(values["date"]), "formats": tuple(values["formats"]),
            "warnings": tuple(values["warnings"]),
            "permanent": values["permanent"] and PermanentWater(**values["permanent"]),
        }  # fmt: skip
        return cls(**{**values, **typed})

    def run(self, strips: StripSource, *, at_once: bool = False) -> FloodMap:
        """Write rasters, vector files and, at the end, the JSON report.

        Args:
            strips: the finished strips of the whole scene: a `journal.Strips`, which reads the codes of the strips and
                the notes on the windows of each strip from the work folder.
            at_once: True: complete and simplify the outlines while the rasters are still being written. False: do this
                after the rasters. True takes less time and more memory.

        Returns:
            The results, without the path of the HTML report, which is not written here.

        Raises:
            OutputError: a file cannot be written.
            SceneError, VectorError: the reference of permanent water cannot be read.
        """
        if self.permanent is None:
            return self._write(strips, at_once=at_once)
        whole = replace(self, with_permanent=True)
        with (
            open_reference(self.permanent, self.grid, self.source) as reference,
            separated(strips, reference, self.threshold, self.grid) as all_strips,
        ):
            return whole._write(all_strips, at_once=at_once)

    def _write(self, strips: StripSource, *, at_once: bool) -> FloodMap:
        """Write the results of strips with the codes of permanent water; see `run`."""
        tally = Tally(self.grid, threshold=self.threshold)

        # Rasters and polygons are made in parallel, each on one core. The last step takes the most memory: components
        # that reach the last row of the scene are traced, and all outlines are simplified. It waits for the rasters.
        def strips_and_rasters() -> Iterator[tuple[int, Any]]:
            yield from tally.count(strips.strips())
            if not at_once:
                rasters.result()

        with ThreadPoolExecutor(1, thread_name_prefix="rasters") as executor:
            rasters = executor.submit(self.write_rasters, strips)
            # Imported here, because the import takes long and the rasters are written meanwhile.
            from floodmap.output.polygons import polygonize

            layers = polygonize(strips_and_rasters(), **self.of_polygons())
            written = rasters.result()
        return self.complete(strips, written, layers, tally.census())

    def write_rasters(self, strips: StripSource) -> tuple[Path, Path]:
        """Write mask and probability raster of all strips; return their paths."""
        about = {"model": self.settings["model"]["name"], "source": self.source}
        tags = {"TIFFTAG_SOFTWARE": f"floodmap {self.settings['versions']['floodmap']}", **about}
        return write_rasters(
            strips.strips(), self.out, self.name, grid=self.grid, threshold=self.threshold, tags=tags, overwrite=True,
            scratch=strips.scratch, permanent=self.with_permanent,
        )  # fmt: skip

    def of_polygons(self) -> dict[str, Any]:
        """Return the arguments of `polygons.polygonize` besides the strips."""
        return {
            "grid": self.grid, "threshold": self.threshold, "min_area_m2": self.min_area_m2,
            "simplify_m": self.simplify_m, "model": self.settings["model"]["name"], "source": self.source,
        }  # fmt: skip

    def complete(self, strips: StripSource, rasters: tuple[Path, Path], layers: Polygons, census: Census) -> FloodMap:
        """Write the vector files and the JSON report, after the rasters.

        Args:
            strips: see `run`; with the codes of permanent water.
            rasters: paths of mask and probability raster, which are written already.
            layers: the polygons.
            census: pixels and areas of the scene.

        Raises:
            OutputError: a file cannot be written.
        """
        from floodmap.output.vector_files import write_layers

        mask, probability = rasters
        tables = {"flood": layers.flood, "unobserved": layers.unobserved}
        if self.with_permanent:
            tables["permanent_water"] = layers.permanent
        paths = write_layers(
            tables, self.out, self.name, self.formats, date=self.date, overwrite=True, scratch=strips.scratch
        )  # fmt: skip
        handed_over = self._write_cems(tables, strips, census) if self.files.get("cems") else []
        counts = {name: len(table) for name, table in tables.items()}
        del layers, tables
        trim_heap()
        self._warn_of_stale(paths)
        summary = {
            "name": self.name,
            **census.as_json(permanent=self.with_permanent),
            "polygons": counts,
            **count_windows(strips.notes()),
            "warnings": list(self.warnings),
            **self.settings,
            "run": {
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.time() - self.started, 2),
                "formats": list(self.formats),
                "schema": "cems" if self.files.get("cems") else "floodmap",
                "flood_type": self.flood_type,
                "workers": self.workers,
            },
        }
        report = self.out / f"{self.name}.json"
        write_report(report, summary)
        return FloodMap(
            name=self.name,
            mask_path=mask,
            probability_path=probability,
            layer_paths=tuple(paths),
            report_path=report,
            report=summary,
            cems_paths=tuple(handed_over),
        )

    def _write_cems(self, tables: Mapping[str, Any], strips: StripSource, census: Census) -> list[Path]:
        """Write the layers in the schema of Copernicus EMS, and return the paths of their files."""
        from floodmap.output.products.cems import Imagery, area_polygons, cems_tables
        from floodmap.output.products.cems_files import write_cems

        outside = bool(census.pixels[OUTSIDE])
        area = area_polygons(strips, self.grid, self.simplify_m) if outside else None
        imagery = Imagery.of(self.settings, self.source, self.date)
        layers = cems_tables(tables, self.grid, imagery, area=area, flood_type=self.flood_type, name=self.name)
        return write_cems(layers, self.out, self.name, self.formats, date=self.date, scratch=strips.scratch)

    def _warn_of_stale(self, vector_files: Iterable[Path]) -> None:
        """Log a warning for each file that an earlier run left and this run does not replace."""
        written = result_paths(self.out, self.name, self.formats, **self.files)
        others = {
            *result_paths(self.out, self.name, FORMATS, **EVERY_FILE),
            *(unobserved_files(path)[0] for path in vector_files if path.suffix != ".gpkg"),
        }
        for stale in sorted(others - set(written)):
            if stale.exists():
                log.warning("%s is left from an earlier run and does not match the new results; delete it", stale)


def count_windows(notes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts of windows and pixels of a run, as a part of the JSON report.

    Args:
        notes: notes on the windows, one for each strip; for the keys see `inference.prediction.predict`.

    Returns:
        Two entries. `pixels_processed` is the number of pixels that the model predicted. `windows` is a dictionary.
        Three of its entries are numbers of windows: `run` (the model predicted the window or parts of it), `skipped`
        (no pixel is observed), and `skipped_by_coarse` (the coarse pass gives the result everywhere in the window; not
        counted in `skipped`). The entry `failed` is a list of the windows on which the model failed or that could not
        be read, with rectangle and error message. A window that could be read in part is in this list, and also counts
        in `run` or `skipped_by_coarse`.
    """
    notes = list(notes)
    # A window that overlaps a resumed run's first strip is computed by both runs, and may fail in both.
    failed = {tuple(failure["window"].values()): failure for note in notes for failure in note["failed"]}
    return {
        "windows": {
            "run": sum(note["run"] for note in notes),
            "skipped": sum(note["skipped"] for note in notes),
            "skipped_by_coarse": sum(note["skipped_by_coarse"] for note in notes),
            "failed": list(failed.values()),
        },
        "pixels_processed": sum(note["pixels"] for note in notes),
    }
