"""What a user decides about training; `option` says what these fields are on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from floodmap.errors import LabelError
from floodmap.options import MODEL, option


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneOptions:
    """What a user decides about a run."""

    base: str = option(MODEL, "Weights to begin with: a model's name or file.", metavar="NAME|FILE")
    what: Literal["full", "lora", "decoder"] = option(
        "full", "Train everything; the decoder and adapters in a SAM encoder; or the decoder alone: fast, for few "
        "pictures.", flag="--train",
    )  # fmt: skip
    epochs: float = option(20.0, "Looks at each picture, about.")
    learning_rate: float = option(2e-4, "Step size of the optimizer, at its highest.")
    val_share: float = option(0.2, "Share of the pictures to validate on, where the data does not say.")
    views: int = option(
        8, "With --train decoder: views of each picture to encode once and learn from; 0: new ones always.", least=0
    )
    patience: int = option(8, "Half epochs without gain after which training stops.", least=1)
    flood_value: str | None = option(None, "Flood in the masks; the rest is dry.", metavar="VALUE", shown="found out")
    ignore_values: tuple[str, ...] = ()
    """What is neither flood nor dry in the masks, beside what they declare; see `FloodRule.parse`."""
    strict: bool = option(False, "Stop if anything is wrong with the labels, instead of leaving these pictures out.")
    seed: int = option(0, "Seed of the views that are drawn.", least=0)
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.epochs > 0 or not self.learning_rate > 0 or not 0 < self.val_share < 1:
            raise LabelError("epochs and learning rate must be above 0, and val_share between 0 and 1")
