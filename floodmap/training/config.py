"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from floodmap.models.sam.efficientnet import EncoderConfig

PROMPT_KINDS = ("none", "points", "box", "coarse")
"""Prompts of the near views in training; `coarse`: a mask prompt from the far view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All settings of a training run; stored in the header of the weights."""

    architecture: str = "flood_sam"
    """`flood_sam`, or one of Meta's: `vit_b`, `vit_l`, `vit_h`."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Image encoder of a `flood_sam`."""
    minutes: float = 100.0
    """Length of the run. The learning rate follows the clock: a slower machine takes fewer steps, not more time."""
    steps: int | None = None
    """Length in steps instead: a run that is broken off and resumed then comes to the same weights."""
    what: Literal["full", "lora", "decoder"] = "full"
    """Trained part: everything; prompt encoder, mask decoder and adapters in the image encoder; or the first two."""
    lora_rank: int = 8
    """Rank of the adapters; see `lora.LoraLinear`."""
    cached_batches: int = 0
    """Batches encoded once and trained on again and again, for frozen encoders; 0: every step encodes new views."""
    workers: int = 0
    """Processes that draw batches in advance; 0: the training process draws them, which is best on a CPU."""
    accumulate: int = 1
    """Batches whose gradients are accumulated in a step."""
    patience: int | None = None
    """Early stopping: checkpoints without a better validation score before the run ends; None: it never ends early."""
    sizes: tuple[tuple[int, int, int], ...] = ((192, 256, 12), (256, 384, 6), (320, 512, 3))
    """Sides of the far and of the near views, in pixels, and pairs in a batch, for each size of batch."""
    size_shares: tuple[float, ...] = (0.35, 0.35, 0.3)
    """Probability of each of `sizes`."""
    prompt_shares: tuple[float, ...] = (0.26, 0.13, 0.07, 0.54)
    """Probability of each of `PROMPT_KINDS` for the near views."""
    thorough: bool = False
    """Steps with points use all views, two series of points on each, and the full corrector between rounds of points.
    Else, for speed: a third of the views, one series, and kriging alone between rounds."""
    relabelled: float = 0.3
    """Share of the views with points in which a region is relabelled: see `simulated_prompts.relabel_region`."""
    perturbed: float = 0.3
    """Share of the coarse masks with random errors added: see `simulated_prompts.perturb_coarse`."""
    flood_dropped: float = 0.15
    """Share of the coarse masks from which most flood is removed: see `simulated_prompts.drop_flood`."""
    joined: float = 0.75
    """Probability that points and boxes are combined with the coarse mask, as in use, rather than given alone."""
    learning_rate: float = 1e-3
    """Peak of the schedule (`loop.schedule`)."""
    encoder_rate: float = 0.5
    """Factor of the learning rate for the image encoder, which begins with pretrained weights."""
    weight_decay: float = 0.03
    warmup: float = 0.03
    """Share of the run over which the learning rate rises, 0 to 1."""
    settled: float = 0.5
    """Share of the run, at its end, in which batch norms use their running statistics, as in inference.

    Statistics of a batch depend on its other pictures, and the network learned to use that. With them it called 27 % of
    a batch of dry tiles flooded, with the running statistics 6 %.
    """
    dry_weight: float = 3.5
    """Factor of the cross-entropy of views without flood, to make up for the Dice loss that only the others have."""
    steadiness: float = 10.0
    """Weight of the consistency loss between a view and a part of it: see `loss.consistency_loss`."""
    ema_steps: int = 400
    """Time constant of the moving average of the weights, in steps."""
    seed: int = 0
    device: str = "cpu"
    checkpoint_minutes: float = 6.0
    """Minutes from checkpoint to checkpoint; each validates the model and saves it."""
    checkpoint_steps: int = 200
    """Steps from checkpoint to checkpoint, for runs whose length is given in steps."""

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the run that is done, from 0; may exceed 1 at the end. `elapsed` in seconds."""
        return elapsed / 60 / self.minutes if self.steps is None else step / self.steps

    def is_checkpoint(self, step: int, since_last: float) -> bool:
        """Whether a checkpoint is due after this step; `since_last`: seconds since the last one."""
        return since_last > self.checkpoint_minutes * 60 if self.steps is None else step % self.checkpoint_steps == 0
