"""Average the weights of related models: `python scripts/average_weights.py DATA ONE OTHER ... -o OUT.safetensors`.

The models must have been trained from the same initial weights. The mean is scored and calibrated on flood-area val, as
in training. The header of the result holds the config of the last model. A tensor that some models lack is averaged
over the models that have it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from training_data import flood_area

from floodmap.models.calibration import fit
from floodmap.models.familiarity import PREFIX
from floodmap.models.sam.efficientnet import EncoderConfig
from floodmap.training.checkpoint import build, export
from floodmap.training.config import TrainConfig
from floodmap.training.validation import validate


def config_of(path: Path) -> TrainConfig:
    """Read the training config in the header of a model's weights."""
    with safe_open(path, framework="pt") as file:
        stored = json.loads(file.metadata()["config"])
    known = {one.name for one in fields(TrainConfig)}  # older headers have other names for some fields
    kept = {name: value for name, value in stored.items() if name in known}
    return TrainConfig(**{**kept, "encoder": EncoderConfig.from_json(stored["encoder"])})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    states = [load_file(path) for path in options.weights]
    mean = {
        name: torch.stack([state[name].float() for state in states if name in state]).mean(dim=0)
        if value.is_floating_point()
        else value
        for name, value in states[-1].items()
        if not name.startswith(PREFIX)  # features of training pictures, computed anew by familiar_ground.py
    }
    config = config_of(options.weights[-1])
    model = build(config)
    model.load_state_dict(mean)
    scores = validate(model.eval(), flood_area(options.data / "flood-area", "val"), torch.device("cpu"))
    measured = {"val_iou": scores.iou, "val_iou_unprompted": scores.iou_unprompted}
    export(mean, config, options.out, measured, fit(scores.histogram))
    print(f"val IoU {scores.iou_unprompted:.4f} with no prompt, {scores.iou:.4f} auto")


if __name__ == "__main__":
    main()
