"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from floodmap.models.sam.efficientnet import EncoderConfig

PROMPT_KINDS = ("none", "points", "box", "coarse")
"""Types of prompt of the near views in training. `coarse` is a mask prompt: the prediction for the far view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """All settings of a training run; stored in the header of the weights."""

    architecture: str = "flood_sam"
    """Network: `flood_sam`, or one of Meta's `vit_b`, `vit_l` and `vit_h`."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """Dimensions of the image encoder of a `flood_sam`."""
    minutes: float = 100.0
    """Length of the run in minutes. The learning rate depends on the time, and a slower machine takes fewer steps."""
    steps: int | None = None
    """Length of the run in steps, instead of `minutes`; None: `minutes` is used.
    With a length in steps, an interrupted and resumed run gives the same weights as a run without interruption."""
    what: Literal["full", "lora", "decoder"] = "full"
    """Weights that are trained. `full`: all weights. `decoder`: prompt encoder and mask decoder.
    `lora`: prompt encoder, mask decoder, and adapters in the image encoder."""
    lora_rank: int = 8
    """Rank of the adapters; see `lora.LoraLinear`."""
    cached_batches: int = 0
    """Number of batches that a frozen encoder encodes once, for use in many steps; 0: every step encodes new views."""
    workers: int = 0
    """Number of processes that draw batches in advance; 0: the training process itself draws batches."""
    accumulate: int = 1
    """Number of batches in a step; the gradients of these batches are accumulated."""
    patience: int | None = None
    """Early stopping: number of checkpoints without a higher validation IoU after which the run ends; None: never."""
    sizes: tuple[tuple[int, int, int], ...] = ((192, 256, 12), (256, 384, 6), (320, 512, 3))
    """Types of batch: each with the side of the far views and of the near views in pixels, and the number of pairs."""
    size_shares: tuple[float, ...] = (0.35, 0.35, 0.3)
    """Probability of each type of batch in `sizes`."""
    prompt_shares: tuple[float, ...] = (0.26, 0.13, 0.07, 0.54)
    """Probability of each type of prompt in `PROMPT_KINDS`, for the near views."""
    thorough: bool = False
    """Whether a `flood_sam` is trained more thoroughly in steps with points as prompts; such steps take longer.

    A set of points is drawn in rounds. After each round, the prediction is corrected at the points drawn so far, and
    the next round adds points at the remaining errors.

    True: a step uses all views of a batch, and draws two sets of points for each view. Between the rounds, `Corrector`
    corrects the prediction by kriging (interpolation between points) and by a network.

    False: a step uses a third of the views, and draws one set of points for each view. Between the rounds, `Corrector`
    corrects the prediction by kriging alone.
    """
    relabelled: float = 0.3
    """Probability that the label of one region is swapped (flood or dry) in a view whose prompts are points; see
    `simulated_prompts.relabel_region`."""
    perturbed: float = 0.3
    """Share of the `coarse` prompts with random errors added; see `simulated_prompts.perturb_coarse`."""
    flood_dropped: float = 0.15
    """Share of the `coarse` prompts from which most flood is removed; see `simulated_prompts.drop_flood`."""
    joined: float = 0.75
    """Probability that points or boxes are combined with a `coarse` prompt, as in `segment`."""
    learning_rate: float = 1e-3
    """Highest learning rate of the schedule; see `loop.schedule`."""
    encoder_rate: float = 0.5
    """Factor on the learning rate of the image encoder, which begins with pretrained weights."""
    weight_decay: float = 0.03
    """Weight decay of AdamW, for parameters of two or more dimensions."""
    warmup: float = 0.03
    """Share of the run, at its beginning, in which the learning rate rises, 0 to 1."""
    settled: float = 0.5
    """Share of the run, at its end, in which batch norms use their running statistics, as in inference.

    Otherwise, batch norms use the statistics of the batch, which depend on all views of the batch. In a training with
    these statistics only, the network learned to use this dependence: in a batch without flood, it predicted 27 % of
    the pixels as flood with the statistics of the batch, and 6 % with running statistics.
    """
    dry_weight: float = 3.5
    """Factor on the cross-entropy of views without flood. Views with flood have a Dice loss in addition."""
    steadiness: float = 10.0
    """Weight of the consistency loss, which compares a view with a part of the view; see `loss.consistency_loss`."""
    ema_steps: int = 400
    """Time constant of the moving average of the weights, in steps."""
    seed: int = 0
    """Seed of all random draws."""
    device: str = "cpu"
    """Torch device of the training, if there is only one process; see `distributed.ProcessGroup`."""
    checkpoint_minutes: float = 6.0
    """Minutes between checkpoints; at each checkpoint the model is validated and saved."""
    checkpoint_steps: int = 200
    """Number of steps between checkpoints, for runs whose length is given in steps."""

    def progress(self, step: int, elapsed: float) -> float:
        """Return the share of the run that is done, from 0 to 1; at the end of a run it may be a little more than 1.

        Args:
            step: number of optimizer steps taken.
            elapsed: time of training in seconds.
        """
        return elapsed / 60 / self.minutes if self.steps is None else step / self.steps

    def is_checkpoint(self, step: int, since_last: float) -> bool:
        """Return whether a checkpoint is due after a step.

        Args:
            step: number of optimizer steps taken.
            since_last: time since the last checkpoint in seconds.
        """
        return since_last > self.checkpoint_minutes * 60 if self.steps is None else step % self.checkpoint_steps == 0
