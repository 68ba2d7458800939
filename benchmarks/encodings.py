"""What encodings on disk save: `python benchmarks/encodings.py DATA/flood-area [--steps 30]`.

Seconds a step of training the shipped model's decoder, with the encoder running and from encodings, in one run; an
epoch is the same number of steps either way. Encoding itself, the price of the first epoch, is shown beside it.
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

from floodmap.audit import audit
from floodmap.checkpoint import build
from floodmap.crew import Crew
from floodmap.dataset import PairSampler, Source
from floodmap.encoder import EncoderConfig
from floodmap.finetune import pieces, sources
from floodmap.labels import find_labels
from floodmap.models import resolve
from floodmap.train import Lesson, TrainConfig, make_optimizer, set_training, train_step

PICTURES = 60


def seconds_a_step(drawn: Sequence[Source], batches: int, steps: int) -> float:
    """Mean over some steps, the first left out; `batches` encoded beforehand, none for a running encoder."""
    weights, crew = resolve("finetuned").path, Crew("cpu")
    with safe_open(weights, framework="pt") as file:
        encoder = EncoderConfig.from_json(json.loads(file.metadata()["config"])["encoder"])
    config = TrainConfig(encoder=encoder, what="decoder", settled=1.0, cached_batches=batches)
    model = build(config, weights)
    generator = torch.Generator().manual_seed(0)
    lesson = Lesson(model, config, PairSampler(drawn, generator), generator, crew.device)
    optimizer = make_optimizer(model, replace(config, learning_rate=1e-5))
    with tempfile.TemporaryDirectory() as folder:
        if batches:
            begun = time.monotonic()
            lesson.remember(Path(folder), lambda *_: None)
            print(f"encoding           {(time.monotonic() - begun) / batches:.3f} s a batch")
        set_training(model, settled=True)
        train_step(lesson, optimizer, crew)
        begun = time.monotonic()
        for _ in range(steps):
            train_step(lesson, optimizer, crew)
        return (time.monotonic() - begun) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    audited = audit(find_labels(options.data))
    labelled = audited.usable[:PICTURES]
    drawn = sources(labelled, [piece for one in labelled for piece in pieces(one, audited.rule)])
    running = seconds_a_step(drawn, 0, options.steps)
    cached = seconds_a_step(drawn, 12, options.steps)
    print(f"encoder running    {running:.3f} s a step")
    print(f"from encodings     {cached:.3f} s a step: {running / cached:.1f} times as fast")


if __name__ == "__main__":
    main()
