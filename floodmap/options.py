"""Options of scenes, runs and training: default values, checks and help texts, all defined in this module.

The command line builds options from the dataclass fields below (`field.metadata`). `floodmap.segment` has the same
default values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from floodmap.errors import EvaluationError, FloodmapError, LabelError, OutputError

Format = Literal["gpkg", "shp", "geojson", "fgb", "parquet"]
"""Vector formats that floodmap writes, named by the suffix of the file.

A GeoPackage contains both layers (`flood` and `unobserved`). In all other formats each layer is a separate file.
"""
FORMATS: tuple[Format, ...] = get_args(Format)

Schema = Literal["floodmap", "cems"]
"""Schemas of the vector files: floodmap's own, or also that of Copernicus EMS Rapid Mapping."""
FloodType = Literal["unknown", "riverine", "flash", "coastal", "ice-jam"]
"""Kinds of flood in the schema of Copernicus EMS."""

Augment = Literal["full", "light", "flips", "off"]
"""Choices of random augmentation of the views in training; `FineTuneOptions.augment` describes each choice."""

OUTPUT_FOLDER = "floodmap_output"
"""Default folder of the results, relative to the current folder."""
MODEL = "finetuned"
"""Name of the default model; the package contains the weights of this model."""
TILE_SIZE = 1024
"""Default of the longest side of a window, in pixels."""
OVERLAP = 24
"""Default of the smallest overlap of neighbouring windows, in pixels."""
THRESHOLD = 0.5
"""Default threshold: a pixel is flood from this probability (0 to 1) upwards."""
FORMAT: Format = "gpkg"
"""Default vector format."""


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    shown: str | None = None,
    least: int | None = None,
) -> Any:
    """Return a dataclass field that is also an option of the command line.

    Args:
        default: default value of the field.
        help: help text of one or two sentences, which documents both the option and the field.
        flag: name of the option. By default the name of the field without the unit at the end: `min_area_m2` becomes
            `--min-area`.
        metavar: placeholder for the value in the help.
        shown: text that the help shows in place of the default value.
        least: smallest value that an integer option accepts.
    """
    return field(
        default=default, metadata={"help": help, "flag": flag, "metavar": metavar, "shown": shown, "least": least}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneOptions:
    """Options for reading a scene. By default, bands, nodata, collar and CRS follow from the raster file itself."""

    resolution_m: float | None = option(
        None, "Work at this ground sample distance, in metres, instead of the scene's own pixels.", metavar="METRES"
    )
    bands: tuple[int, ...] | None = option(
        None, 'Bands to use, counted from 1, such as "4,3,2"; one band is grey.',
        metavar="R,G,B[,NIR]", shown="by colour interpretation",
    )  # fmt: skip
    nir: Literal["auto", "off"] = option(
        "auto", "Use the near infrared band, if the scene has one, to separate water from land."
    )
    nodata: float | Literal["none"] | None = option(
        None, "Value of pixels without data, instead of the file's own nodata and of void values such as -9999; none: "
        "every pixel is ground.", metavar="VALUE|none",
    )  # fmt: skip
    mask: Path | str | None = option(
        None, "Raster or polygons to leave unobserved, for example clouds. In a raster, 0 is free; nodata only if the "
        "raster holds no 0.", metavar="FILE",
    )  # fmt: skip
    collar: Literal["auto", "off"] = option("auto", "Find untagged black or white borders and leave them unobserved.")
    crs: str | None = option(
        None, "CRS of the scene, such as EPSG:32643, if the file has none or a wrong one.", metavar="CRS"
    )
    aoi: Path | str | None = option(
        None, "Polygons, or a raster, of the area of interest; ground outside is unobserved.", metavar="FILE"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """Options of a run of `segment`. Options that affect the results are stored in the JSON report of the run."""

    scene: SceneOptions = field(default_factory=SceneOptions)
    """Options for reading the raster."""
    prompts: Path | str = option(
        "auto", "Prompts of the model: a coarse pass over the scene (auto), none, or the coarse pass and a vector file "
        "with points that correct the result (field `label`: 1 flood, 0 dry) and boxes around all flood.",
        metavar="auto|none|FILE",
    )  # fmt: skip
    tile_size: int = option(TILE_SIZE, "Longest side of a window; a multiple of 32.", metavar="PIXELS", least=32)
    overlap: int = option(OVERLAP, "Smallest overlap of neighbouring windows.", metavar="PIXELS", least=0)
    threshold: float = option(THRESHOLD, "Flood where the probability is at least this, from 0.01 to 1.")
    permanent_water: Path | str | None = option(
        None, "Raster or polygons of water that is always there: a class and a layer of its own, and no flood.",
        metavar="FILE",
    )  # fmt: skip
    permanent_least: float | None = option(
        None, "Least value of permanent water in the raster.", flag="--permanent-least", metavar="VALUE",
        shown="50; 1 in a raster of 0 and 1",
    )  # fmt: skip
    permanent_rim_m: float | None = option(
        None, "Width of the rim around permanent water that counts as its bank, in metres.", flag="--permanent-rim",
        metavar="METRES", shown="one pixel of the raster; 0 for polygons",
    )  # fmt: skip
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
    pdf: bool = option(False, "Write NAME_report.pdf too: the results on A4 pages, to print or to send.")
    stac: bool = option(False, "Write NAME_stac.json too: a STAC item of the results.")
    schema: Schema = option(
        "floodmap", "Schema of the vector files; cems: also layers in the schema of Copernicus EMS Rapid Mapping."
    )
    flood_type: FloodType = option("unknown", "Kind of flood in the layers of --schema cems.")
    keep_features: bool = option(
        False,
        "Keep what corrections need, in the folder NAME_features: with --resume and --prompts FILE, only the "
        "windows with points are computed again.",
    )
    batch_size: int = option(1, "Windows that are computed at a time.", shown="up to 4 on a CPU, 8 on a GPU", least=1)
    exhaustive: bool = option(
        False, "Compute all windows, also where the coarse pass has already decided between dry and flood."
    )
    overwrite: bool = option(False, "Replace results that are there already, and unfinished work.")
    resume: bool = option(False, "Go on with an interrupted run; begin a new one if there is none.")

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        if self.batch_size < 1:
            raise FloodmapError(f"batch size {self.batch_size} must be at least 1")
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise FloodmapError(f"formats {self.formats} must be some of {', '.join(FORMATS)}")
        for name in ("min_area_m2", "simplify_m", "permanent_rim_m"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise FloodmapError(f"{name} {value} must be 0 or more")
        if self.permanent_water is None and (self.permanent_least is not None or self.permanent_rim_m is not None):
            raise FloodmapError("--permanent-least and --permanent-rim need --permanent-water FILE")
        if self.keep_features and self.prompts == "none":
            raise FloodmapError("--keep-features needs --prompts auto: points correct the automatic result")
        if self.flood_type != "unknown" and self.schema != "cems":
            raise FloodmapError("--flood-type needs --schema cems")

    @property
    def threshold_percent(self) -> int:
        """Threshold in whole per cent, at least 1, for comparison with codes (one uint8 per pixel)."""
        return in_percent(self.threshold)

    @property
    def has_points_file(self) -> bool:
        """True if the prompts come from a file of a user."""
        return self.prompts not in ("auto", "none")

    @property
    def files(self) -> dict[str, Path | str]:
        """Input files of a run besides the scene, by name of the option (`mask`, `aoi`, `prompts`, `permanent_water`).

        Each value is a file, a .gdb folder, or a name that only GDAL opens, such as `/vsizip/...`.
        """
        given = {
            "mask": self.scene.mask, "aoi": self.scene.aoi, "prompts": self.prompts,
            "permanent_water": self.permanent_water,
        }  # fmt: skip
        return {name: path for name, path in given.items() if path not in (None, "auto", "none")}


class SegmentSettings(TypedDict, total=False):
    """Types of the optional keyword arguments of `floodmap.segment_many`: fields of both option classes above."""

    prompts: str | Path
    resolution_m: float | None
    bands: tuple[int, ...] | None
    nir: Literal["auto", "off"]
    nodata: float | Literal["none"] | None
    mask: str | Path | None
    aoi: str | Path | None
    crs: str | None
    collar: Literal["auto", "off"]
    tile_size: int
    overlap: int
    threshold: float
    permanent_water: str | Path | None
    permanent_least: float | None
    permanent_rim_m: float | None
    min_area_m2: float | None
    simplify_m: float | None
    formats: tuple[Format, ...]
    keep_features: bool
    exhaustive: bool
    overwrite: bool
    resume: bool
    report: bool
    pdf: bool
    stac: bool
    schema: Schema
    flood_type: FloodType


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicOptions:
    """Options of a run of `mosaic`, besides those of `segment`."""

    name: str = option("mosaic", "First part of the names of all result files.", metavar="NAME")
    product_crs: str | None = option(
        None, "CRS of the results, such as EPSG:32643. Frames in another CRS are resampled.", metavar="CRS",
        shown="the most frequent CRS of the frames",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or Path(self.name).name != self.name:
            raise OutputError(f"{self.name!r} is no name for files; give one without folders")


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneOptions:
    """Options of training a model."""

    base: str = option(MODEL, "Weights to begin with: a model's name or file.", metavar="NAME|FILE")
    what: Literal["full", "lora", "decoder"] = option(
        "full", "full: all weights; lora: the decoder and adapters in a SAM encoder; decoder: the decoder only (fast, "
        "for few pictures).", flag="--train",
    )  # fmt: skip
    epochs: float = option(20.0, "Approximate number of passes over the training pictures.")
    learning_rate: float = option(2e-4, "Largest learning rate of the optimizer.")
    val_share: float = option(0.2, "Share of the pictures to validate on, if the data has no splits of its own.")
    views: int = option(
        8, "With --train decoder: views of each picture to encode once and learn from; 0: new views each time.", least=0
    )
    patience: int = option(8, "Half epochs without a better validation score after which training stops.", least=1)
    augment: Augment = option(
        "full", "Random changes of the views; full: turns, zoom, tilt and light; light: light and right angles; flips: "
        "right angles only; off: none.",
    )  # fmt: skip
    flood_value: str | None = option(
        None, "Flood in the masks; the rest is dry.", metavar="VALUE", shown="from the masks"
    )
    ignore_values: tuple[str, ...] = ()
    """Mask values of pixels that are excluded from training, besides declared nodata; see `FloodRule.parse`."""
    strict: bool = option(False, "Stop if anything is wrong with the labels, instead of leaving these pictures out.")
    seed: int = option(0, "Seed of the random views.", least=0)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.epochs > 0 or not self.learning_rate > 0 or not 0 < self.val_share < 1:
            raise LabelError("epochs and learning rate must be above 0, and val_share between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptOptions:
    """Options of adapting a model to corrections of one scene."""

    base: str = option(MODEL, "Weights to begin with: a model's name or file.", metavar="NAME|FILE")
    parts: int = option(3, "Parts of the corrections; each is kept out once, to find out whether it helped.", least=2)
    even_if_worse: bool = option(False, "Write the weights also if they did not help, or if it cannot be found out.")
    seed: int = option(0, "Seed of the division of the corrections into parts.", least=0)

    def __post_init__(self) -> None:
        if self.parts < 2:
            raise LabelError("the corrections must be divided into 2 parts or more")


class TrainSettings(TypedDict, total=False):
    """Types of the optional keyword arguments of `floodmap.train`: fields of `FineTuneOptions` except `device`."""

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


def in_percent(threshold: float) -> int:
    """Return the lowest whole per cent that is at least a threshold of 0.01 to 1: 51 for the threshold 0.505."""
    return math.ceil(round(100 * threshold, 6))  # 100 * 0.29 is a little below 29, and 100 * 0.55 a little above 55


def check_threshold(threshold: float) -> None:
    """Check that a threshold is a probability from 0.01 to 1.

    Raises:
        EvaluationError: the threshold is outside this range. If the threshold is above 1 and at most 100, the message
            also contains a hundredth of the threshold, because the user has probably given per cent.
    """
    if not 0.01 <= threshold <= 1:
        instead = f"; for {threshold:g} per cent write {threshold / 100:g}" if 1 < threshold <= 100 else ""
        raise EvaluationError(f"threshold {threshold:g} is not a share from 0.01 to 1{instead}")
