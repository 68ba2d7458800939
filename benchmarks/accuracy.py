"""Scores of a model on pictures kept out of its training: `python benchmarks/accuracy.py DATA [--model FILE]`.

DATA is the folder described in docs/model-card.md. Every picture is segmented as a user's scene, with automatic
prompts; only the two lines called oracle use the reference. Where the ground sample distance of a picture is known, the
picture becomes a GeoTIFF, so that the model gets it; `--gsd off` withholds it. The weights were chosen by scores on val
pictures. `--final` scores the pictures that are kept out of every choice: once, at the end.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from likelihood import otsu
from numpy.typing import NDArray
from painted_floods import paintings
from PIL import Image

from floodmap.comparison.oracle import PromptKind
from floodmap.comparison.study import run_study
from floodmap.imagery.scene import Scene
from floodmap.inference.loop import segment_whole
from floodmap.inference.prompting import make_prompter
from floodmap.inference.proof import Proof
from floodmap.inference.tiling import Grid
from floodmap.masks.audit import audit
from floodmap.masks.labels import find_labels
from floodmap.models.calibration import cross_fitted_error
from floodmap.models.infrared import with_infrared
from floodmap.models.loading import load_segmenter
from floodmap.models.protocol import Segmenter
from floodmap.models.registry import resolve
from floodmap.options import SceneOptions
from floodmap.synthetic.sample import write_sample

SETS = ("floods", "dubai", "dry", "synthetic", "nadir", "painted", "infrared", "oracle")
WET_CLASSES = ("river", "harbor", "beach", "golfcourse")
SYNTHETIC_SEEDS = range(1, 11)
FINAL = ("leeman_decatur", "coasttrain_naip")
"""Sources of `nadir` whose val pictures are kept out of every choice."""
SAME_PLACE = ("usgs_obx", "usgs_montereybay", "floodnet", "noaa_wetlots")
"""Sources of which another part, or another day, is in the training data."""
UCMERCED_GSD_M = 0.3048
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A picture to score."""

    group: str
    path: Path
    mask: Codes
    """1 flood, 0 dry, 255 not scored."""
    gsd_m: float = 0.0
    """Ground sample distance in metres; 0: not known, or stored in the file."""


@dataclass
class Group:
    """Pictures that are scored together."""

    name: str
    names: list[str] = field(default_factory=list)
    histograms: list[NDArray[np.int64]] = field(default_factory=list)
    """int64 (101, 2) each: scored pixels by probability in per cent and by reference (dry, flooded)."""
    extra: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, codes: Codes, mask: Codes) -> None:
        """Add a picture: predicted codes, and its mask (1 flood, 0 dry, 255 not scored)."""
        scored_pixels = (codes <= 100) & (mask <= 1)
        counts = np.bincount(codes[scored_pixels].astype(np.int64) * 2 + mask[scored_pixels], minlength=202)
        self.names.append(name)
        self.histograms.append(counts.reshape(101, 2))

    def ious(self) -> list[float]:
        """IoU of each picture with flood in its mask."""
        return [iou(one) for one in self.histograms if one[:, 1].any()]

    def row(self) -> dict[str, float | int | str]:
        """Row of the printed table."""
        total, ious = np.sum(self.histograms, axis=0), self.ious()
        row: dict[str, float | int | str] = {"set": self.name, "pictures": len(self.histograms)}
        if ious:
            row |= {"mean IoU": float(np.mean(ious)), "pooled IoU": iou(total), "lowest": min(ious)}
            row |= {"under 0.40": sum(one < 0.4 for one in ious)}
        return row | {"false flood %": 100 * float(total[50:, 0].sum() / max(total[:, 0].sum(), 1))} | self.extra


def iou(histogram: NDArray[np.int64]) -> float:
    """Intersection over union at 50 per cent."""
    hit, false, missed = histogram[50:, 1].sum(), histogram[50:, 0].sum(), histogram[:50, 1].sum()
    return float(hit / max(hit + false + missed, 1))


def segmented(path: Path, model: Segmenter, prompts: str = "auto", options: SceneOptions | None = None) -> Codes:
    """Segment a picture as `floodmap segment` does; returns its codes (height, width)."""
    with Scene.open(path, options) as scene:
        grid, proof = Grid(height=scene.height, width=scene.width, multiple=model.multiple), Proof()
        model = with_infrared(model, scene)
        prompter = make_prompter(scene, model, prompts, exhaustive=False)
        return segment_whole(scene, grid, model, prompter, exhaustive=not model.any_size, proof=proof)


def placed(picture: Picture, folder: Path) -> Path:
    """Write the picture as a GeoTIFF with its ground sample distance; returns the original where that is not known."""
    if not picture.gsd_m:
        return picture.path
    rgb = np.asarray(Image.open(picture.path).convert("RGB")).transpose(2, 0, 1)
    path, (count, height, width) = folder / "placed.tif", rgb.shape
    transform = Affine(picture.gsd_m, 0, 500_000, 0, -picture.gsd_m, 4_000_000)
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype="uint8", crs="EPSG:32616",
        transform=transform,
    ) as dataset:  # fmt: skip
        dataset.write(rgb)
    return path


def read(path: Path) -> Codes:
    """Read a mask, (height, width)."""
    return np.asarray(Image.open(path))


def dry_mask(path: Path) -> Codes:
    """The mask of a picture without water, all 0."""
    with Image.open(path) as picture:
        return np.zeros(picture.size[::-1], np.uint8)


def flood_area(data: Path) -> Iterator[Picture]:
    """Val pictures of flood-area."""
    folder = data / "flood-area"
    with (folder / "splits.csv").open() as file:
        for row in csv.DictReader(file):
            if row["split"] == "val":
                name = row["name"]
                yield Picture("flood-area", folder / "images" / f"{name}.jpg", read(folder / "masks" / f"{name}.png"))


def dubai(data: Path) -> Iterator[Picture]:
    """Tile 5 of dubai-water."""
    folder = data / "dubai-water"
    for path in sorted((folder / "images").glob("tile5_*.jpg")):
        yield Picture("dubai-water tile 5", path, read(folder / "masks" / f"{path.stem}.png"))


def ucmerced(data: Path) -> Iterator[Picture]:
    """Every third file, by name, of the dry classes of ucmerced."""
    classes = [path for path in (data / "ucmerced").iterdir() if path.is_dir() and path.name not in WET_CLASSES]
    files = sorted((path for one in classes for path in one.glob("*.jpg")), key=lambda path: path.name)
    for path in files[::3]:
        yield Picture("ucmerced dry", path, dry_mask(path), UCMERCED_GSD_M)


def nadir(data: Path, *, final: bool) -> Iterator[Picture]:
    """Val pictures of nadir in groups by source, dry ones in groups of their own."""
    with (data / "nadir" / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val" and (row["source"] in FINAL) == final]
    for row in sorted(rows, key=lambda row: row["source"]):
        path, source = data / "nadir" / row["file"], row["source"]
        mask = read(data / "nadir" / row["mask"]) if row["mask"] else dry_mask(path)
        kind = "water" if (mask == 1).any() else "dry"
        group = f"{source} {kind}{' (same place)' if source in SAME_PLACE else ''}"
        yield Picture(group, path, mask, float(row["gsd_m"] or 0))


def synthetic(data: Path, side: int = 1536) -> Iterator[Picture]:
    """One synthetic scene for each of `SYNTHETIC_SEEDS`."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in SYNTHETIC_SEEDS:
            scene, reference = write_sample(Path(folder) / f"s{seed}.tif", width=side, height=side, seed=seed)
            with rasterio.open(reference) as dataset:
                yield Picture("synthetic", scene, dataset.read(1))


def scored(pictures: Iterable[Picture], model: Segmenter, prompts: str, *, with_gsd: bool) -> list[Group]:
    """Segment pictures and collect them in groups; `with_gsd`: the model gets their ground sample distances."""
    groups: dict[str, Group] = {}
    with tempfile.TemporaryDirectory() as folder:
        for one in pictures:
            path = placed(one, Path(folder)) if with_gsd else one.path
            groups.setdefault(one.group, Group(one.group)).add(
                one.path.stem, segmented(path, model, prompts), one.mask
            )  # fmt: skip
    return list(groups.values())


def painted(data: Path, model: Segmenter, prompts: str, *, final: bool, with_gsd: bool) -> list[Group]:
    """Groups of pictures with painted floods: all, by colour, and the same pictures dry."""
    title = "painted, final" if final else "painted"
    whole, dry = Group(title), Group(f"{title}: dry")
    colours: dict[str, Group] = {}
    standing = on_standing = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"

        def segment_array(rgb: NDArray[np.uint8], gsd_m: float) -> Codes:
            Image.fromarray(rgb.transpose(1, 2, 0)).save(path)
            scene = placed(Picture(title, path, rgb[0], gsd_m if with_gsd else 0.0), Path(folder))
            return segmented(scene, model, prompts)

        for one in paintings(data / "labelled", final=final):
            codes = segment_array(one.rgb, one.ground.gsd_m)
            colour = colours.setdefault(one.colour, Group(f"{title}: {one.colour}"))
            for group in (whole, colour):
                group.add(one.name, codes, one.mask)
            stands = one.stands & ~one.ground.unknown
            standing += int(stands.sum())
            on_standing += int(((codes >= 50) & (codes <= 100) & stands).sum())
            dry.add(one.name, segment_array(one.ground.rgb, one.ground.gsd_m), one.dry)
    whole.extra["flood on roofs and trees %"] = 100 * on_standing / max(standing, 1)
    return [whole, dry, *colours.values()]


def oracle(data: Path, model: Segmenter) -> list[dict[str, float | int | str]]:
    """Mean IoU on flood-area val with prompts from the reference."""
    audited = audit(find_labels(data / "flood-area"))
    chosen = [one for one in audited.usable if one.split == "val"]
    kinds = [PromptKind.parse(kind) for kind in ("box", "points:8")]
    study = run_study(chosen, [model], kinds, rule=audited.rule, clock=time.monotonic)
    return [
        {"set": f"flood-area, {kind} (oracle)", "pictures": len(chosen),
         "mean IoU": float(np.mean([trial.scores.iou for trial in study.of(model.name, kind)]))}
        for kind in kinds
    ]  # fmt: skip


def infrared(data: Path, model: Segmenter) -> Iterator[Group]:
    """Two dates of a lake district, with near infrared and without.

    Reference: NDWI above its Otsu threshold, and near infrared below its own. floodmap uses neither rule.
    """
    for path in sorted((data / "nadir" / "naip5m").glob("*.tif")):
        with rasterio.open(path) as dataset:
            bands, observed = dataset.read().astype(np.float32), dataset.dataset_mask() > 0
        green, nir = bands[1], bands[3]
        ndwi = (green - nir) / np.maximum(green + nir, 1)
        water = (ndwi > otsu(ndwi[observed])) & (nir < otsu(nir[observed]))
        for nir_option in ("auto", "off"):
            group = Group(f"{path.stem}, near infrared {nir_option}")
            codes = segmented(path, model, options=SceneOptions(bands=(1, 2, 3, 4), nir=nir_option))
            group.add(path.stem, codes, np.where(observed, water, 255).astype(np.uint8))
            yield group


def calibration(groups: Sequence[Group]) -> float:
    """Cross-fitted calibration error; every group has the same weight."""
    weighed = []
    for group in groups:
        total = np.sum(group.histograms)
        weighed += [one * (1e6 / max(total, 1)) for one in group.histograms]
    return cross_fitted_error(weighed)


def table(rows: Sequence[dict[str, float | int | str]]) -> str:
    """Rows as text in aligned columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_text(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _text(value: float | int | str) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="finetuned")
    parser.add_argument("--prompts", default="auto", choices=["auto", "none"])
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--final", action="store_true", help="score what is kept out of every choice, once, at the end")
    parser.add_argument("--gsd", choices=["auto", "off"], default="auto", help="off: the model is told no resolution")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="write every picture's IoU and false flood here")
    options = parser.parse_args()
    model, data = load_segmenter(resolve(options.model), options.device), options.data
    sets: dict[str, Callable[[], Iterator[Picture]]] = {
        "floods": lambda: flood_area(data), "dubai": lambda: dubai(data), "dry": lambda: ucmerced(data),
        "synthetic": lambda: synthetic(data), "nadir": lambda: nadir(data, final=options.final),
    }  # fmt: skip
    with_gsd = options.gsd == "auto"
    wanted = ["nadir", "painted"] if options.final else options.sets
    score = partial(scored, model=model, prompts=options.prompts, with_gsd=with_gsd)
    groups = [group for name in wanted if name in sets for group in score(sets[name]())]
    if "painted" in wanted:
        groups += painted(data, model, options.prompts, final=options.final, with_gsd=with_gsd)
    rows = [group.row() for group in groups]
    if "infrared" in wanted:
        rows += [group.row() for group in infrared(data, model)]
    if "oracle" in wanted:
        rows += oracle(data, model)
    print(table(rows))
    if groups:
        print(f"calibration error, cross-fitted, every set an equal share: {calibration(groups):.4f}")
    if options.json:
        pictures = {
            group.name: {
                name: [iou(one), float(one[50:, 0].sum() / max(one[:, 0].sum(), 1))]
                for name, one in zip(group.names, group.histograms, strict=True)
            }
            for group in groups
        }
        options.json.write_text(json.dumps({"rows": rows, "pictures": pictures}, indent=1))


if __name__ == "__main__":
    main()
