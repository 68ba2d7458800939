"""Training data of the shipped model: sources of pictures; `shares.csv` has the share and the settings of each source.

A source listed in `nadir/index.csv` (file, mask, source, split, place, gsd_m) needs a row in `shares.csv` and no code.
Only rows of the train split are read.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from floodmap.synthetic.inundation import Ground, coarser, draw_water, flood, patchwork, standing_out
from floodmap.synthetic.scene import SyntheticScene
from floodmap.training.samples import IGNORED, Sample, Source, read_mask, read_rgb

SHARES = Path(__file__).with_name("shares.csv")
WET_MASKS = Path(__file__).with_name("wet_masks.npz")
"""Masks of ucmerced pictures by name of the picture, uint8: 1 water, 0 dry, 255 without a label. They were drawn for
floodmap, see docs/model-card.md."""
WET_CLASSES = ("river", "harbor", "beach", "golfcourse")
SYNTHETIC_SEEDS = range(1000, 1120)
WRONG_MASKS = ("1010", "2018")
"""Training pictures of flood-area with wrong masks, which are left out: in the mask of the first a flooded town is dry,
and the second has the mask of another picture."""
DARK_WATER = ("2023", "2025", "2033", "2048", "3000", "3005", "3041", "3045")
"""Training pictures of flood-area with dark water. They are drawn five times as often, because dark water is rare."""
PAINTINGS = 2
"""Number of floods that are painted on each labelled picture."""
UCMERCED_GSD_M = 0.3048
WATER, STANDING, ROAD = 1, (2, 3, 4), 5
"""Classes in the masks of labelled pictures. STANDING: objects that stand out of the water."""
FAR_FACTORS = (2, 3, 4, 6)
"""Factors of the pixel size of coarse painted pictures: 7 cm become 15 to 45 cm."""
DRY_PER_KNOWN = 3
"""One of so many dry pictures has its ground sample distance, the others an unknown one. If all had it, a network would
learn that a known distance means dry ground, because most pictures with a known distance are dry."""
DUBAI_GSD_M = 0.7
"""Estimated ground sample distance of dubai-water, in metres. Each picture is drawn with it and without it, because a
network that sees little dark water with a known distance learns that a known distance means dry ground."""


def sources(data: Path, table: Path = SHARES) -> list[Source]:
    """Build the sources of a table.

    Args:
        data: folder with flood-area/, dubai-water/, ucmerced/, nadir/ and labelled/.
        table: CSV with the columns source, share, kind (oblique, above, tile), plain, wet, repainted. A share of 0
            leaves a source out. For the other numbers see `Source`.
    """
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if float(row["share"]) > 0]
    by_name: dict[str, Callable[[], list[Sample]]] = {
        "flood-area": lambda: flood_area_to_train(data / "flood-area"), "dubai-water": lambda: dubai(data),
        "ucmerced": lambda: ucmerced_dry(data / "ucmerced"), "ucmerced wet": lambda: ucmerced_wet(data / "ucmerced"),
        "patchworks": lambda: patchworks(data), "synthetic": synthetic, "painted": lambda: painted(data / "labelled"),
        "painted from far": lambda: painted_from_far(data / "labelled"),
    }  # fmt: skip
    nadir = indexed(data / "nadir")
    found = []
    for row in rows:
        name = row["source"]
        samples = by_name[name]() if name in by_name else nadir[name]
        factor = {"factor": (1.0, 1.6)} if row["kind"] == "tile" else {}
        chances = {key: float(row[key]) for key in ("share", "plain", "wet", "repainted")}
        found.append(Source(name=name, samples=samples, from_above=row["kind"] != "oblique", **chances, **factor))
    return found


def shares_of(table: Path = SHARES) -> dict[str, float]:
    """Return the share of each source of a table; sources with a share of 0 are left out."""
    with table.open() as file:
        shares = {row["source"]: float(row["share"]) for row in csv.DictReader(file)}
    return {name: share for name, share in shares.items() if share > 0}


def indexed(folder: Path, split: str = "train") -> dict[str, list[Sample]]:
    """Return the samples of an index by source; pictures without a mask are dry. See `DRY_PER_KNOWN`."""
    found: dict[str, list[Sample]] = {}
    for row in read_index(folder, split):
        rgb = read_rgb(folder / row["file"])
        mask = read_mask(folder / row["mask"]) if row["mask"] else np.zeros(rgb.shape[1:], np.uint8)
        sample = Sample(Path(row["file"]).stem, rgb, mask, row["place"], float(row["gsd_m"] or 0))
        of_source = found.setdefault(row["source"], [])
        is_known = bool(row["mask"]) or len(of_source) % DRY_PER_KNOWN == 0
        of_source.append(sample if is_known else replace(sample, gsd_m=0.0))
    return found


def read_index(folder: Path, split: str) -> list[dict[str, str]]:
    """Return the rows of one split in an index."""
    with (folder / "index.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def flood_area(folder: Path, split: str) -> list[Sample]:
    """Return the samples of one split of flood-area."""
    with (folder / "splits.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file) if row["split"] == split]
    return [
        Sample(name, read_rgb(folder / "images" / f"{name}.jpg"), read_mask(folder / "masks" / f"{name}.png"))
        for name in names
    ]


def flood_area_to_train(folder: Path) -> list[Sample]:
    """Return the training samples of flood-area without wrong masks; samples with dark water are listed five times."""
    floods = [one for one in flood_area(folder, "train") if one.name not in WRONG_MASKS]
    return floods + 4 * [one for one in floods if one.name in DARK_WATER]


def dubai(data: Path) -> list[Sample]:
    """Return the samples of tiles 1 to 4 of dubai-water, each with an unknown distance and with `DUBAI_GSD_M`."""
    folder = data / "dubai-water"
    paths = sorted(path for path in (folder / "images").glob("*.jpg") if not path.name.startswith("tile5_"))
    unknown = [Sample(p.stem, read_rgb(p), read_mask(folder / "masks" / f"{p.stem}.png")) for p in paths]
    return unknown + [replace(one, gsd_m=DUBAI_GSD_M) for one in unknown]


def dry_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of the seventeen dry classes of ucmerced: training files, and every third by name, kept out."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in WET_CLASSES)
    files = sorted((path for one in classes for path in one.glob("*.jpg")), key=lambda path: path.name)
    return [path for i, path in enumerate(files) if i % 3], files[::3]


def ucmerced_dry(folder: Path) -> list[Sample]:
    """Return the samples of the dry tiles of ucmerced."""
    dry = [_dry_sample(read_rgb(path), path.stem) for path in dry_files(folder)[0]]
    return [replace(one, gsd_m=0.0) if number % DRY_PER_KNOWN else one for number, one in enumerate(dry)]


def ucmerced_wet(folder: Path) -> list[Sample]:
    """Return the samples of rivers, harbours and beaches of ucmerced, with the masks of `WET_MASKS`."""
    with np.load(WET_MASKS) as masks:
        paths = [folder / name.rstrip("0123456789") / f"{name}.jpg" for name in masks.files]
        return [Sample(path.stem, read_rgb(path), masks[path.stem], gsd_m=UCMERCED_GSD_M) for path in paths]


def patchworks(data: Path, count: int = 150, per_side: int = 3, side: int = 256) -> list[Sample]:
    """Compose larger pictures of tiles; each tile is from a flooded picture with probability 1/3.

    If all tiles were dry, a network could learn that the seams between tiles are a sign of dry ground.

    Args:
        data: see `sources`.
        count: number of pictures.
        per_side: number of tiles along a side of a picture.
        side: side of a tile, in pixels.
    """
    dry = ucmerced_dry(data / "ucmerced")
    wet = [*flood_area_to_train(data / "flood-area"), *dubai(data), *ucmerced_wet(data / "ucmerced")]
    rng, samples = np.random.default_rng(0), []
    for number in range(count):
        chosen = [_choose(wet if rng.random() < 1 / 3 else dry, rng) for _ in range(per_side**2)]
        samples.append(Sample(f"patchwork-{number}", *patchwork([_cut(one, side, rng) for one in chosen], per_side)))
    return samples


def synthetic(side: int = 1536) -> list[Sample]:
    """Return one synthetic scene for each of `SYNTHETIC_SEEDS`; `side`: height and width in pixels."""
    samples = []
    for seed in SYNTHETIC_SEEDS:
        scene = SyntheticScene(width=side, height=side, seed=seed)
        samples.append(Sample(f"synthetic-{seed}", *scene.window(0, 0, side, side), gsd_m=scene.gsd_m))
    return samples


def painted(folder: Path) -> list[Sample]:
    """Return labelled pictures with painted floods, and the same pictures dry.

    With both, a network learns the appearance of water and not the place.
    """
    with ProcessPoolExecutor() as pool:
        found = pool.map(_paint, *zip(*_to_paint(folder, PAINTINGS, coarse=False), strict=True))
        return [sample for samples in found for sample in samples]


def painted_from_far(folder: Path, count: int = 160, per_side: int = 3) -> list[Sample]:
    """Return coarse patchworks of nine pictures of one place and one pixel size, each with a painted flood or dry."""
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(_paint, *zip(*_to_paint(folder, 2 * PAINTINGS, coarse=True), strict=True)))
    rng = np.random.default_rng(1)
    alike: dict[tuple[str, float], list[Sample]] = {}
    for tile in (tile for tiles in found for tile in tiles):
        alike.setdefault((tile.place, tile.gsd_m), []).append(tile)
    kinds, samples = sorted(alike), []
    for number in range(count):
        tiles = alike[kinds[number % len(kinds)]]
        wet = [tile for tile in tiles if (tile.mask == 1).any()]
        dry = [tile for tile in tiles if not (tile.mask == 1).any()] or wet
        share = (0.0, 0.5, 0.8, 1.0)[number // len(kinds) % 4]
        chosen = [_choose(wet if wet and rng.random() < share else dry, rng) for _ in range(per_side**2)]
        side = min(max(one.mask.shape) for one in chosen)
        cut = [_cut(one, side, rng) for one in chosen]
        samples.append(Sample(f"far-{number}", *patchwork(cut, per_side), chosen[0].place, chosen[0].gsd_m))
    return samples


def ground_of(folder: Path, row: dict[str, str]) -> Ground:
    """Convert a labelled picture to the input of `inundation.flood`."""
    rgb, classes = read_rgb(folder / row["file"]), read_mask(folder / (row["mask_auto"] or row["mask"]))
    stands = np.isin(classes, STANDING)
    gsd_m = float(row["gsd_m"])
    if "4" not in row["classes"].split():  # the picture has no class for cars (4): its cars are labelled as ground
        stands |= standing_out(rgb, gsd_m) & (classes != IGNORED)
    unknown = (classes == IGNORED) | (classes == WATER)
    return Ground(rgb=rgb, stands=stands, unknown=unknown, low=classes == ROAD, gsd_m=gsd_m)


def _to_paint(folder: Path, count: int, *, coarse: bool) -> Iterator[tuple[Path, dict[str, str], int, bool]]:
    """Yield the arguments of `_paint`, `count` times for each picture.

    If `coarse` is true, only pictures finer than 0.2 m a pixel are used.
    """
    rows = [row for row in read_index(folder, "train") if row["source"] != "floodnet"]  # floodnet is flooded already
    for number, row in enumerate(rows):
        if not coarse or float(row["gsd_m"]) < 0.2:
            yield from ((folder, row, 10_000 * coarse + count * number + i, coarse) for i in range(count))


def _paint(folder: Path, row: dict[str, str], seed: int, coarse: bool) -> list[Sample]:
    """Return a picture with a painted flood; with every `PAINTINGS`th seed, return the dry picture as well."""
    ground, rng = ground_of(folder, row), np.random.default_rng([7, seed])
    dry = np.where(ground.unknown, IGNORED, 0).astype(np.uint8)
    share = float(rng.uniform(0.08, 0.9)) if rng.random() < 0.85 else float(rng.uniform(0.9, 1.0))
    pairs = [flood(ground, draw_water(rng), rng, share)]
    if seed % PAINTINGS == 0:
        pairs.append((ground.rgb, dry))
    factor = FAR_FACTORS[seed // PAINTINGS % len(FAR_FACTORS)] if coarse else 1
    if coarse:
        pairs = [coarser(*pair, factor) for pair in pairs]
    gsd_m = ground.gsd_m * factor
    return [Sample(f"{Path(row['file']).stem}-{seed}", *pair, row["place"], gsd_m) for pair in pairs]


def _choose(samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
    """Return a random sample."""
    return samples[int(rng.integers(len(samples)))]


def _cut(sample: Sample, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a random square from a picture, RGB and mask; a side that is too short is padded by repeating its edge."""
    top, left = (int(rng.integers(max(length - side, 0) + 1)) for length in sample.mask.shape)
    part = np.s_[top : top + side, left : left + side]
    rgb, mask = sample.rgb[:, *part], sample.mask[part]
    missing = [(0, side - length) for length in mask.shape]
    return np.pad(rgb, [(0, 0), *missing], mode="edge"), np.pad(mask, missing, mode="edge")


def _dry_sample(rgb: np.ndarray, name: str) -> Sample:
    """Make a dry sample of ucmerced."""
    return Sample(name, rgb, np.zeros(rgb.shape[1:], np.uint8), gsd_m=UCMERCED_GSD_M)
