"""What decides a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from floodmap.models.sam.efficientnet import EncoderConfig

PROMPT_KINDS = ("none", "points", "box", "coarse")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run; stored in the checkpoint."""

    architecture: str = "flood_sam"
    """`flood_sam`, or one of Meta's: `vit_b`, `vit_l`, `vit_h`."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Shape of a `flood_sam`."""
    minutes: float = 100.0
    """Length of the run; the learning rate follows the clock, so a slower machine takes fewer steps, not longer."""
    steps: int | None = None
    """Length in steps instead: a run that is broken off and resumed then comes to the same weights."""
    what: Literal["full", "lora", "decoder"] = "full"
    """Train everything; the prompt encoder and the mask decoder, with adapters in the image encoder; or these alone."""
    lora_rank: int = 8
    cached_batches: int = 0
    """Encode so many batches once and learn from these; 0: encode new views in every step. For frozen encoders."""
    workers: int = 0
    """Processes that draw views ahead; 0: the one that learns draws them, as is best where it learns on the CPU."""
    accumulate: int = 1
    """Batches a step."""
    patience: int | None = None
    """Stop when validation has not gained for so many checkpoints; None: never before the end."""
    sizes: tuple[tuple[int, int, int], ...] = ((192, 256, 12), (256, 384, 6), (320, 512, 3))
    """Sides of the far and near views, in pixels, and how many pairs make a batch."""
    size_shares: tuple[float, ...] = (0.35, 0.35, 0.3)
    """How often each size is drawn."""
    prompt_shares: tuple[float, ...] = (0.26, 0.13, 0.07, 0.54)
    """How often each of `PROMPT_KINDS` is drawn for the near views."""
    thorough: bool = False
    """Steps with points take all views, two series of points on each, and correct in full between their rounds; else
    a third of the views, one series, and kriging alone between, for speed."""
    relabelled: float = 0.3
    """Share of the views with points whose flood is understood otherwise: see `simulated_prompts.relabel_region`."""
    perturbed: float = 0.3
    """Share of the coarse masks that are made wrong in places: see `simulated_prompts.perturb_coarse`."""
    flood_dropped: float = 0.15
    """Share of the coarse masks in which the flood is flood_dropped: see `simulated_prompts.drop_flood`."""
    joined: float = 0.75
    """How often points and boxes come on top of the coarse mask, as in use, rather than alone."""
    learning_rate: float = 1e-3
    encoder_rate: float = 0.5
    """Factor of the learning rate for the image encoder, which begins with more than the rest does."""
    weight_decay: float = 0.03
    warmup: float = 0.03
    """Share of the run over which the learning rate rises."""
    settled: float = 0.5
    """Share of the run, at its end, in which batch norms use their running statistics, as they will in use.

    Those of a batch tell what else is in it, and the network reads that: of dry tiles alone it called 27 % flooded with
    the batch's own statistics, 6 % with the running ones.
    """
    dry_weight: float = 3.5
    """How much more the cross-entropy of a view without flood counts: Dice, which such a view lacks, is as large."""
    steadiness: float = 10.0
    """Weight of the squared difference between what is made of a view and of a part of it: see `loss.unsteadiness`."""
    ema_steps: int = 400
    """Memory of the averaged weights, in steps."""
    seed: int = 0
    device: str = "cpu"
    checkpoint_minutes: float = 6.0
    """How often progress is saved and validated."""
    checkpoint_steps: int = 200
    """The same for runs whose length is given in steps."""

    def progress(self, step: int, elapsed: float) -> float:
        """How much of the run is done, from 0; `elapsed` in seconds."""
        return elapsed / 60 / self.minutes if self.steps is None else step / self.steps

    def is_checkpoint(self, step: int, since_last: float) -> bool:
        """Whether progress is to be saved, so many seconds after the last time."""
        return since_last > self.checkpoint_minutes * 60 if self.steps is None else step % self.checkpoint_steps == 0
