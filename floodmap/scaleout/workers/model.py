"""Models as workers load them: by name and SHA-256, never as weights in a message."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from floodmap.errors import ModelError
from floodmap.models.mirrored import Mirrored
from floodmap.models.protocol import Segmenter
from floodmap.models.registry import ResolvedModel, registry, resolve


class Loaded(NamedTuple):
    """A loaded model, with properties of the machine."""

    segmenter: Segmenter
    batch_size: int
    """Batch size with the highest throughput if the model had all cores of the machine."""
    device: str
    """Kind of the device; see `hardware.device_kind`."""


class ModelSource(Protocol):
    """Description of a model, small enough to be sent to a worker. Equal descriptions give equal models."""

    def load(self, device: str, share: int) -> Loaded:
        """Load the model.

        Args:
            device: torch device, or `auto`.
            share: number of worker processes that share the cores of the machine.
        """
        ...


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model of floodmap: the name in the registry, or the file, and the SHA-256 of the weights."""

    given: str
    """Name of a model, or absolute path of a file."""
    sha256: str
    """SHA-256 of the file, lower-case hexadecimal."""
    flips: bool = False
    """True: test-time augmentation; see `mirrored.Mirrored`."""

    @classmethod
    def of(cls, model: ResolvedModel, *, flips: bool = False) -> ModelFile:
        """Describe a model whose file is on this machine."""
        known = registry().get(model.name)
        by_name = known is not None and known.sha256 == model.sha256 and known.path == model.path
        return cls(model.name if by_name else str(Path(model.path).absolute()), model.sha256, flips)

    def load(self, device: str, share: int) -> Loaded:
        """Load the model; see `ModelSource.load`. A model of Meta is downloaded if this machine does not have it.

        Raises:
            ModelError: the file is missing, damaged, or has another SHA-256 than on the client's machine.
        """
        from floodmap.models.hardware import device_kind, load_on_share

        model = resolve(self.given)
        if model.sha256 != self.sha256:
            raise ModelError(
                f"{model.path} has SHA-256 {model.sha256} on a worker, and {self.sha256} here; copy it again"
            )
        loaded, batch_size = load_on_share(model, device, share)
        return Loaded(Mirrored(loaded) if self.flips else loaded, batch_size, device_kind(device))
