"""Options of a scene, a run and training, with default, check and help text; each is written here once.

The command line makes its options of these fields (`field.metadata`); `floodmap.segment` has the same defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from floodmap.errors import EvaluationError, FloodmapError, LabelError

Format = Literal["gpkg", "shp", "geojson", "fgb", "parquet"]
"""Vector formats floodmap writes, by suffix; in a GeoPackage both layers share a file, else each has its own."""
FORMATS: tuple[Format, ...] = get_args(Format)

Augment = Literal["full", "light", "flips", "off"]
"""Random augmentation of views of training pictures."""

OUTPUT_FOLDER = "floodmap_output"
"""Folder of the results, in the current folder."""
MODEL = "finetuned"
"""The shipped model."""
TILE_SIZE = 1024
"""Longest side of a window, in pixels."""
OVERLAP = 24
"""Pixels shared by neighbouring windows."""
THRESHOLD = 0.5
"""Least probability of flood, from 0 to 1."""
FORMAT: Format = "gpkg"
"""The default vector format."""


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    shown: str | None = None,
    least: int | None = None,
) -> Any:
    """A dataclass field that is an option of the command line as well.

    Args:
        default: its default value.
        help: help text, one or two sentences, for users of Python, too.
        flag: name of the option; by default the field's name without the unit at its end: `min_area_m2` is
            `--min-area`.
        metavar: placeholder of the value in the help.
        shown: text that the help shows for a default of None.
        least: smallest value, for options that are whole numbers.
    """
    return field(
        default=default, metadata={"help": help, "flag": flag, "metavar": metavar, "shown": shown, "least": least}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneOptions:
    """How a raster is read, where that is not left to its own metadata."""

    resolution_m: float | None = option(
        None, "Work at this ground sample distance, in metres, instead of the scene's own pixels.", metavar="METRES"
    )
    bands: tuple[int, ...] | None = option(
        None, 'Bands to use, counted from 1, such as "4,3,2"; one band is grey.',
        metavar="R,G,B[,NIR]", shown="by colour interpretation",
    )  # fmt: skip
    nir: Literal["auto", "off"] = option(
        "auto", "Use near infrared where the scene has it: land that shines in it is dry, and dark water is found."
    )
    nodata: float | Literal["none"] | None = option(
        None, "Value of pixels that hold nothing, instead of the file's own and of such as -9999 that are found; none: "
        "every pixel is ground.", metavar="VALUE|none",
    )  # fmt: skip
    mask: Path | str | None = option(None, "Raster or polygons to leave unobserved: cloud, say.", metavar="FILE")
    collar: Literal["auto", "off"] = option("auto", "Find untagged black or white borders and leave them unobserved.")
    crs: str | None = option(
        None, "CRS of the scene, such as EPSG:32643, where the file has none or a wrong one.", metavar="CRS"
    )
    aoi: Path | str | None = option(
        None, "Polygons of the area of interest; ground outside is left out.", metavar="FILE"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """Settings of a run; those that affect the results are stored with them."""

    scene: SceneOptions = field(default_factory=SceneOptions)
    """How the raster is read."""
    prompts: Path | str = option(
        "auto", "What tells the model where to look: a coarse pass (auto), nothing, or a coarse pass and a vector file "
        "with points that correct the result (field `label`: 1 flood, 0 dry) and boxes around all flood.",
        metavar="auto|none|FILE",
    )  # fmt: skip
    tile_size: int = option(TILE_SIZE, "Longest side of a window; a multiple of 32.", metavar="PIXELS", least=32)
    overlap: int = option(OVERLAP, "Pixels that neighbouring windows share, at least.", metavar="PIXELS", least=0)
    threshold: float = option(THRESHOLD, "Flood where the probability is at least this, from 0.01 to 1.")
    min_area_m2: float | None = option(
        None, "Drop smaller polygons, in square metres.", metavar="M2", shown="25 pixels"
    )
    simplify_m: float | None = option(
        None, "Tolerance of the outlines, in metres; 0 follows every pixel.", metavar="METRES", shown="1 pixel"
    )
    formats: tuple[Format, ...] = option(
        (FORMAT,), f"Vector formats to write, separated by commas: {', '.join(FORMATS)}.", flag="--format",
        metavar="LIST",
    )  # fmt: skip
    report: bool = option(False, "Write NAME_report.html too: the results on one page that opens offline.")
    batch_size: int = option(1, "Windows at a time.", shown="1 on a CPU, 8 on a GPU", least=1)
    exhaustive: bool = option(False, "Look from near, too, at ground that the coarse pass is sure is dry, or flooded.")
    overwrite: bool = option(False, "Replace results that are there already, and unfinished work.")
    resume: bool = option(False, "Go on where an interrupted run stopped; begin where there is nothing to go on with.")

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.batch_size < 1:
            raise FloodmapError(f"batch size {self.batch_size} must be at least 1")
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise FloodmapError(f"formats {self.formats} must be some of {', '.join(FORMATS)}")
        for name, value in (("min_area_m2", self.min_area_m2), ("simplify_m", self.simplify_m)):
            if value is not None and not 0 <= value < math.inf:
                raise FloodmapError(f"{name} {value} must be 0 or more")

    @property
    def threshold_percent(self) -> int:
        """The threshold in per cent, as codes hold it."""
        return max(1, round(self.threshold * 100))

    @property
    def files(self) -> dict[str, Path | str]:
        """Other inputs of a run, by option: files, .gdb folders, names that only GDAL opens."""
        given = {"mask": self.scene.mask, "aoi": self.scene.aoi, "prompts": self.prompts}
        return {name: path for name, path in given.items() if path not in (None, "auto", "none")}


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneOptions:
    """Settings of training a model."""

    base: str = option(MODEL, "Weights to begin with: a model's name or file.", metavar="NAME|FILE")
    what: Literal["full", "lora", "decoder"] = option(
        "full", "Train everything; the decoder and adapters in a SAM encoder; or the decoder alone: fast, for few "
        "pictures.", flag="--train",
    )  # fmt: skip
    epochs: float = option(20.0, "Looks at each picture, about.")
    learning_rate: float = option(2e-4, "Step size of the optimizer, at its highest.")
    val_share: float = option(0.2, "Share of the pictures to validate on, where the data does not say.")
    views: int = option(
        8, "With --train decoder: views of each picture to encode once and learn from; 0: new ones always.", least=0
    )
    patience: int = option(8, "Half epochs without gain after which training stops.", least=1)
    augment: Augment = option(
        "full", "How views are changed at random: in everything (turns, zoom, tilt, light), in light and by right "
        "angles (light), by right angles alone (flips), or not at all (off).",
    )  # fmt: skip
    flood_value: str | None = option(None, "Flood in the masks; the rest is dry.", metavar="VALUE", shown="found out")
    ignore_values: tuple[str, ...] = ()
    """Values of the masks that are neither flood nor dry, besides their nodata; see `FloodRule.parse`."""
    strict: bool = option(False, "Stop if anything is wrong with the labels, instead of leaving these pictures out.")
    seed: int = option(0, "Seed of the views that are drawn.", least=0)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.epochs > 0 or not self.learning_rate > 0 or not 0 < self.val_share < 1:
            raise LabelError("epochs and learning rate must be above 0, and val_share between 0 and 1")


class TrainSettings(TypedDict, total=False):
    """The fields of `FineTuneOptions` as keyword arguments, for type checkers: each may be left out."""

    base: str
    what: Literal["full", "lora", "decoder"]
    epochs: float
    learning_rate: float
    val_share: float
    views: int
    patience: int
    augment: Augment
    flood_value: str | None
    ignore_values: tuple[str, ...]
    strict: bool
    seed: int


def check_threshold(threshold: float) -> None:
    """Check that a threshold is a share from 0.01 to 1.

    Raises:
        EvaluationError: it is not; the message says what to write instead.
    """
    if not 0.01 <= threshold <= 1:
        instead = f"; for {threshold:g} per cent write {threshold / 100:g}" if 1 < threshold <= 100 else ""
        raise EvaluationError(f"threshold {threshold:g} is not a share from 0.01 to 1{instead}")
