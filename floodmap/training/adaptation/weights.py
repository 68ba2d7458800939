"""Weights of an adapted model: a copy of the base file with tuned tensors and a record of the adaptation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from floodmap._runtime.files import atomic_path
from floodmap.errors import ModelError, writing
from floodmap.models.calibration import Calibration
from floodmap.models.digest import check_digest, with_digest
from floodmap.models.registry import ResolvedModel
from floodmap.models.sam.efficientnet import EncoderConfig
from floodmap.models.sam.flood_sam import FloodSam

ADAPTED = "adapted"
"""Name of the entry in the header of an adapted model's file. The value is JSON text."""


@dataclass(frozen=True, slots=True)
class Base:
    """File of the weights that are adapted."""

    model: ResolvedModel
    header: dict[str, str]
    """Metadata of the file."""
    state: dict[str, Tensor]
    """All tensors of the file by name, also those that are no weights of the network."""

    @classmethod
    def read(cls, model: ResolvedModel) -> Base:
        """Read a file of weights.

        Raises:
            ModelError: the file cannot be read, or the network is not floodmap's own.
        """
        if model.path.suffix != ".safetensors" or model.architecture != "flood_sam":
            raise ModelError(
                f"{model.path}: only floodmap's own network can be adapted; give --base finetuned, or weights trained "
                "from it"
            )
        try:
            with safe_open(model.path, framework="pt") as file:
                header, state = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises errors of several types
            raise ModelError(f"{model.path} cannot be read: {str(error).splitlines()[0]}") from error
        check_digest(model.path, state, header)
        return cls(model, header, state)

    @property
    def calibration(self) -> Calibration:
        """Calibration of the logits."""
        return Calibration(**json.loads(self.header.get("calibration", "{}")))

    def network(self) -> FloodSam:
        """Build the network, in float32 and in eval mode, with all weights frozen."""
        network = FloodSam(EncoderConfig.from_json(json.loads(self.header["config"])["encoder"]))
        own = network.state_dict()
        fitting = {name: value.float() for name, value in self.state.items() if name in own}
        network.load_state_dict({**own, **fitting})
        return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def write(self, path: Path, tuned: Mapping[str, Tensor], calibration: Calibration, **entries: Any) -> None:
        """Write a copy of the file with other weights.

        Args:
            path: the new file.
            tuned: new tensors by name; each is stored in the dtype of the tensor it replaces.
            calibration: new calibration.
            entries: entries of the header to add or replace, as JSON types.

        Raises:
            ModelError: a weight is not finite.
            OutputError: the file cannot be written.
        """
        state = {**self.state, **{name: value.detach().cpu().to(self.state[name].dtype).contiguous()
                                  for name, value in tuned.items()}}  # fmt: skip
        header = {**self.header, "calibration": json.dumps(calibration._asdict())}
        header |= {name: json.dumps(value) for name, value in entries.items()}
        with writing(path), atomic_path(path) as partial:
            save_file(state, partial, metadata=with_digest(state, header))
