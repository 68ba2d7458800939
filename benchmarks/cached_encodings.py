"""Decoder training from cached encodings: `python benchmarks/cached_encodings.py DATA/flood-area`.

Prints seconds a step of training the shipped model's decoder both ways, measured in turns; an epoch has the same number
of steps either way. The time to encode the views once is printed as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from floodmap.masks.audit import audit
from floodmap.masks.labels import find_labels
from floodmap.models.registry import resolve
from floodmap.models.sam.efficientnet import EncoderConfig
from floodmap.training.checkpoint import build
from floodmap.training.config import TrainConfig
from floodmap.training.distributed import ProcessGroup
from floodmap.training.labelled import pieces, sources
from floodmap.training.loop import make_optimizer
from floodmap.training.samples import Source
from floodmap.training.sampling import Batches, PairSampler
from floodmap.training.trainer import Trainer, set_training, train_step

PICTURES = 60
BATCHES = 53
"""Eight views of each picture, as `floodmap train` encodes."""
TURN = 10
"""Steps of one way before the other has its turn."""


class TimedRun:
    """A training run and the time of its steps; `batches`: number of batches encoded beforehand, 0: encoder running."""

    def __init__(self, drawn: Sequence[Source], batches: int, folder: Path) -> None:
        weights, self.group = resolve("finetuned").path, ProcessGroup("cpu")
        with safe_open(weights, framework="pt") as file:
            encoder = EncoderConfig.from_json(json.loads(file.metadata()["config"])["encoder"])
        config = TrainConfig(encoder=encoder, what="decoder", settled=1.0, cached_batches=batches)
        model = build(config, weights)
        generator = torch.Generator().manual_seed(0)
        self.trainer = Trainer(model, config, Batches(PairSampler(drawn), config), generator, self.group.device)
        self.optimizer = make_optimizer(model, replace(config, learning_rate=1e-5))
        if batches:
            begun = time.monotonic()
            self.trainer.cache_features(folder, lambda *_: None)
            print(f"encoding           {(time.monotonic() - begun) / batches:.3f} s a batch")
        set_training(model, settled=True)
        self.steps, self.seconds = 0, 0.0

    def run_steps(self, steps: int) -> None:
        """Run and time some steps, after one that is not counted."""
        train_step(self.trainer, self.optimizer, self.group)
        begun = time.monotonic()
        for _ in range(steps):
            train_step(self.trainer, self.optimizer, self.group)
        self.seconds += time.monotonic() - begun
        self.steps += steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    audited = audit(find_labels(options.data))
    labelled = audited.usable[:PICTURES]
    drawn = sources(labelled, [piece for one in labelled for piece in pieces(one, audited.rule)])
    with tempfile.TemporaryDirectory() as folder:
        running, cached = (TimedRun(drawn, batches, Path(folder)) for batches in (0, BATCHES))
        for _ in range(0, options.steps, TURN):  # in turns: the speed of a machine varies
            running.run_steps(TURN)
            cached.run_steps(TURN)
    slow, fast = running.seconds / running.steps, cached.seconds / cached.steps
    print(f"encoder running    {slow:.3f} s a step")
    print(f"from encodings     {fast:.3f} s a step: {slow / fast:.1f} times as fast")


if __name__ == "__main__":
    main()
