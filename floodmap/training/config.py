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
    """Size of a `flood_sam`: number of channels and of blocks in each stage of the image encoder, and number of
    channels of the image embedding; see `EncoderConfig`."""
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
    """Early stopping: the run ends after this number of checkpoints in a row without a new highest validation IoU.
    None: no early stopping."""
    sizes: tuple[tuple[int, int, int], ...] = ((192, 256, 12), (256, 384, 6), (320, 512, 3))
    """Types of batch. Each type has three numbers: side of the far views in pixels, side of the near views in pixels,
    and number of pairs in the batch. A pair is a far view and a near view."""
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
    """Probability that the label of one region is reversed in a view whose prompts are points: flood becomes dry, or
    dry ground becomes flood. See `simulated_prompts.relabel_region`."""
    perturbed: float = 0.3
    """Share of the `coarse` prompts with random errors added; see `simulated_prompts.perturb_coarse`."""
    flood_dropped: float = 0.15
    """Share of the `coarse` prompts from which most flood is removed; see `simulated_prompts.drop_flood`."""
    joined: float = 0.75
    """Probability that points or boxes are combined with a `coarse` prompt, as in `segment`."""
    learning_rate: float = 1e-3
    """Highest learning rate of the schedule; see `loop.schedule`."""
    encoder_rate: float = 0.5
    """Factor on the learning rate of the image encoder's backbone, which begins with pretrained weights; see
    `loop.ENCODER`."""
    weight_decay: float = 0.03
    """Weight decay of AdamW, for parameters of two or more dimensions."""
    warmup: float = 0.03
    """Share of the run, at its beginning, in which the learning rate rises, 0 to 1."""
    settled: float = 0.5
    """Share of the run, at its end, in which batch norms use their running statistics, as in inference.

    In the rest of the run, batch norms use the statistics (mean and variance) of the batch. The prediction for a view
    then depends on the other views of the batch. A network that was trained only in this way had learned to use the
    other views. In batches without flood, it called 27 % of the pixels flood if batch norms used the statistics of the
    batch, but only 6 % if batch norms used running statistics.
    """
    dry_weight: float = 3.5
    """Factor on the cross-entropy of views with little or no flood; see `loss.mask_loss`. All other views have a Dice
    loss in addition to the cross-entropy, and the factor 1."""
    steadiness: float = 10.0
    """Weight of the consistency loss: the mean squared difference between the flood probabilities from a whole view and
    from a rectangle of the view; see `loss.consistency_loss`."""
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
