"""Training step: simulated prompts, losses and gradients for batches of pairs of views.

A pair is a far view and a near view. The far view has larger pixels; the near view shows a part of the same ground.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floodmap.models.sam.common import FRAME, Encoded
from floodmap.models.sam.correction import Ground, krigings_of
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.training.checkpoint import Trainable
from floodmap.training.config import PROMPT_KINDS, TrainConfig
from floodmap.training.distributed import ProcessGroup
from floodmap.training.feature_cache import FeatureCache
from floodmap.training.loss import consistency_loss, flood_loss
from floodmap.training.samples import Views
from floodmap.training.sampling import Batches
from floodmap.training.simulated_prompts import (
    cells_of,
    coarse_prompt,
    deepest_points,
    drop_flood,
    perturb_coarse,
    relabel_region,
    simulate_boxes,
    simulate_points,
)


def set_training(model: Trainable, *, settled: bool) -> None:
    """Set a model to training mode; a frozen image encoder is set to eval mode.

    Args:
        model: the model to train.
        settled: True: batch norms use running statistics, as in inference. False: statistics of the batch.
    """
    model.train()
    if not any(parameter.requires_grad for parameter in model.image_encoder.parameters()):
        model.image_encoder.eval()
    if settled:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()


def train_step(trainer: Trainer, optimizer: torch.optim.Optimizer, group: ProcessGroup) -> float:
    """Take one optimizer step with the gradients of `config.accumulate` batches; return the mean loss of the batches.

    Args:
        trainer: computation of the gradients.
        optimizer: the optimizer.
        group: processes of the run, over which gradients are averaged.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = sum(trainer.step() for _ in range(trainer.config.accumulate)) / trainer.config.accumulate
    group.average_gradients(trainer.model)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    optimizer.step()
    return loss


class Trainer:
    """Computation of losses and gradients for batches of pairs of a far view and a near view, with simulated prompts.

    The far view has larger pixels; the near view shows a part of the same ground. The prediction for the far view, cut
    to the ground of the near view, may be the mask prompt of the near view.

    Args:
        model: the network, in whose parameters gradients are accumulated.
        config: settings of the run.
        batches: batches of pairs of views; see `samples.Pairs`.
        generator: source of all randomness except that of the batches.
        device: the device of the model.
    """

    def __init__(
        self,
        model: Trainable,
        config: TrainConfig,
        batches: Batches,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.model, self.config, self.batches, self.generator, self.device = model, config, batches, generator, device
        self._cache: FeatureCache | None = None

    def cache_features(self, folder: Path, report: Callable[[float, str], None]) -> None:
        """Encode `config.cached_batches` batches with the frozen encoder. Later calls of `step` use only these batches.

        Args:
            folder: folder to which the encoded batches are written, and from which `step` reads them. Batches that an
                interrupted run left in the folder are used again.
            report: called after each batch with the share of the batches that is done, 0 to 1, and the text `encode`.
        """
        set_training(self.model, settled=True)
        with torch.no_grad():
            self._cache = FeatureCache(
                folder, self.config.cached_batches, self.batches.__getitem__, self._encode, self._decode_alone,
                lambda share: report(share, "encode"),
            )  # fmt: skip

    def step(self) -> float:
        """Compute the loss of the next batch, and add the gradients to those of the model's parameters.

        Far views are predicted without prompts. All near views of the batch have the same type of prompt, which is
        drawn at random.

        Returns:
            The mean of the losses of the far views and of the near views. After `cache_features`, the loss of the near
            views alone.
        """
        kind = PROMPT_KINDS[_draw_index(self.config.prompt_shares, self.generator)]
        if self._cache is not None:
            batch = self._cache.draw(self.generator, self.device)
            return self._backward_near(batch.encoded, batch.views, batch.colours, batch.coarse, kind)
        pairs = next(self.batches)
        far, near = pairs.far.to(self.device), pairs.near.to(self.device)
        logits, far_loss = self._backward(self._encode(far), far, {})
        coarse = coarse_prompt(logits, pairs)
        with_gradients = kind != "points" or not isinstance(self.model, FloodSam)
        with torch.set_grad_enabled(with_gradients):
            encoded = self._encode(near)
        near_loss = self._backward_near(encoded, near, cells_of(near.rgb), coarse, kind)
        return (far_loss + near_loss) / 2

    def _encode(self, views: Views) -> Encoded:
        views = views.to(self.device)
        with_gradients = self.config.what != "decoder" and torch.is_grad_enabled()
        with torch.autocast(self.device.type, torch.bfloat16), torch.set_grad_enabled(with_gradients):
            rgb = views.rgb.contiguous(memory_format=torch.channels_last)
            if isinstance(self.model, FloodSam):
                return self.model.encode(rgb, views.scored, views.gsd_m)
            return self.model.encode(rgb, views.scored)

    def _decode_alone(self, encoded: Encoded, **prompts: Any) -> Tensor:
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            return self.model.decode(encoded, **prompts)[0].float()

    def _backward_near(self, encoded: Encoded, views: Views, colours: Tensor, coarse: Tensor, kind: str) -> float:
        config, generator = self.config, self.generator
        # The consistency loss takes a third of the time of a step. It is therefore computed with probability 0.5. It is
        # not computed with points, which would have to be cropped. Views from the cache are parts of views already.
        with_consistency = self._cache is None and kind in ("none", "coarse") and config.steadiness > 0
        with_consistency = with_consistency and _draw_index((0.5, 0.5), generator) == 1
        has_mask = kind == "coarse" or (
            kind != "none" and _draw_index((1 - config.joined, config.joined), generator) == 1
        )
        prompts: dict[str, Any] = {}
        if has_mask:
            prompts["masks"] = drop_flood(
                perturb_coarse(coarse, config.perturbed, generator), config.flood_dropped, generator
            )
        if kind == "box":
            prompts["boxes"] = simulate_boxes(views.target, views.scored, generator)
        if kind != "points":
            return self._backward(encoded, views, prompts, with_consistency=with_consistency)[1]
        if isinstance(self.model, FloodSam):
            subset = slice(0 if self.config.thorough else 2 * len(views.target) // 3, None)
            prompts = {name: prompt[subset] for name, prompt in prompts.items()}
            return self._backward_correction(self.model, encoded[subset], views[subset], colours[subset], prompts)
        views = self._relabelled(views, colours)
        predicted = self._decode_alone(encoded, **prompts)
        for _ in range(self._draw_rounds()):
            prompts["points"] = self._add_points(views, predicted, prompts.get("points"))
            predicted = self._decode_alone(encoded, **prompts)
        return self._backward(encoded, views, prompts)[1]

    def _backward_correction(
        self, model: FloodSam, encoded: Encoded, views: Views, colours: Tensor, prompts: dict[str, Any]
    ) -> float:
        """Compute the loss of predictions that are corrected at points, accumulate the gradients, and return the loss.

        There are three steps:

        1. The encoded views are decoded with `prompts` (a mask prompt or nothing), without points.
        2. In some views, the label of one region is swapped (see `_relabelled`). Points are drawn with the labels after
           the swap (see `_draw_points`). The `Corrector` changes the flood logits of step 1, so that they agree with
           the labels of the points. The change also spreads to other pixels, most to near and similar ones.
        3. The encoded views are decoded again, with the logits of step 2 as mask prompt. Maps of the similarity of each
           cell (4 x 4 pixels) to the points are a further input. The result is corrected at the points by kriging
           (interpolation between points).

        The loss is the mean of two losses: of the logits of step 2, and of the logits of step 3. Gradients flow into
        steps 2 and 3, but not into the encoder and step 1, nor from step 3 into step 2. If `config.thorough` is True,
        steps 2 and 3 are done twice, each time with newly drawn swaps and points. The loss is then the mean over both
        times.
        """
        total, series = 0.0, 2 if self.config.thorough else 1
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            decoded = model.decode_unpointed(encoded, **prompts)
            ground = Ground.of(decoded.logits, encoded.embedding, decoded.features)
        for _ in range(series):
            relabelled = self._relabelled(views, colours)
            points = self._draw_points(model, ground, relabelled)
            # A second autocast context, because older versions of torch reuse weights that were cast without gradients.
            with torch.autocast(self.device.type, torch.bfloat16):
                krigings = krigings_of(ground, points)
                corrected = model.corrector.correct(ground, krigings)
                redecoded = model.decode_corrected(encoded, ground, corrected.detach(), krigings)
                losses = (
                    flood_loss(logits, decoded.iou.float(), relabelled.target, views.scored, self.config.dry_weight)
                    for logits in (corrected, redecoded)
                )
                loss = sum(losses, torch.zeros((), device=self.device)) / (2 * series)
                (loss / self.config.accumulate).backward()
                total += float(loss.detach())
        return total

    def _draw_points(self, model: FloodSam, ground: Ground, views: Views) -> tuple[Tensor, Tensor]:
        """Draw points in rounds, at pixels that are still wrong after a correction at the points of earlier rounds.

        A labelled pixel is wrong if the prediction (flood or dry) differs from `views.target`. `ground` holds outputs
        of the model without points: the flood logits (B, H/2, W/2), and features for the `Corrector`. Before each
        round but the first, the `Corrector` corrects these logits at the points of all earlier rounds. One of two ways
        to draw is chosen at random, with probability 0.5 each, for all rounds and views of the call:

        - 1 to 8 rounds. Each round adds one point to each view, in the largest connected region of wrong pixels, as in
          the command `compare` (see `deepest_points`). In the first round, the prediction counts as dry everywhere. The
          first point therefore lies in the largest flooded region of `views.target`.
        - 1 to 4 rounds. Each round adds one to three random points to each view (see `simulate_points`). If a view has
          wrong pixels, the first of its new points lies at a wrong pixel. Every further point lies at a wrong pixel
          with a probability of at least 0.5. In the first round, the wrong pixels are those of the prediction without
          points.

        Returns:
            Coordinates (B, N, 2) and labels (B, N); see `FloodSam.forward`.
        """
        one_by_one = _draw_index((0.5, 0.5), self.generator) == 1
        if one_by_one:
            points = deepest_points(views.target, views.scored, None)
            rounds = _draw_index((1.0,) * 8, self.generator)
        else:
            points = self._add_points(views, ground.logits, None)
            rounds = self._draw_rounds() - 1
        for _ in range(rounds):
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
                predicted = model.corrector.correct(
                    ground, krigings_of(ground, points), roughly=not self.config.thorough
                )
            points = self._add_points(views, predicted, points, one_by_one=one_by_one)
        return points

    def _relabelled(self, views: Views, colours: Tensor) -> Views:
        """Return the views with changed targets: in some views, the label of one region is swapped.

        `colours` is the mean RGB of each cell of 4 x 4 pixels; see `simulated_prompts.relabel_region`.
        """
        share = self.config.relabelled
        return replace(views, target=relabel_region(colours, views.target, views.scored, share, self.generator))

    def _draw_rounds(self) -> int:
        """Return a random number of rounds, 1 to 4. Each of these rounds adds one to three random points to a view."""
        return 1 + _draw_index((1.0, 1.0, 1.0, 1.0), self.generator)

    def _add_points(
        self, views: Views, predicted: Tensor, points: tuple[Tensor, Tensor] | None, *, one_by_one: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Add points, most of them at wrong pixels of a prediction; see SAM's training (arXiv:2304.02643, appendix A).

        `predicted` holds flood logits, (B, h, w). `points` are the points of earlier rounds; None: no points. If
        `one_by_one` is True, `deepest_points` adds one point to each view. Otherwise `simulate_points` adds one to
        three points to each view.

        Returns:
            Old and new points: coordinates (B, N, 2) and labels (B, N).
        """
        if one_by_one:
            xy, labels = deepest_points(views.target, views.scored, predicted > 0)
        else:
            xy, labels = simulate_points(views.target, views.scored, predicted > 0, self.generator)
        if points is None:
            return xy, labels
        return torch.cat([points[0], xy], dim=1), torch.cat([points[1], labels], dim=1)

    def _backward(
        self, encoded: Encoded, views: Views, prompts: dict[str, Any], *, with_consistency: bool = False
    ) -> tuple[Tensor, float]:
        """Decode encoded views, compute the loss, and accumulate the gradients.

        Returns:
            Two values: the flood logits of the views, float32 (B, h, w), without gradients; and the loss.
        """
        size = max(views.target.shape[1:])
        offset_xy = torch.randint(0, FRAME - size + 1, (len(views.target), 2), generator=self.generator).float()
        inconsistency: Tensor | float = 0.0
        with torch.autocast(self.device.type, torch.bfloat16):
            logits, iou = self.model.decode(encoded, offset_xy=offset_xy.to(self.device), **prompts)
            if with_consistency and isinstance(self.model, FloodSam):
                inconsistency = consistency_loss(
                    self.model, encoded, logits, prompts.get("masks"), views.scored, self.generator
                )  # fmt: skip
        loss = flood_loss(logits.float(), iou.float(), views.target, views.scored, self.config.dry_weight)
        loss = loss + self.config.steadiness * inconsistency
        (loss / self.config.accumulate).backward()
        return logits.detach().float(), float(loss.detach())


def _draw_index(shares: Sequence[float], generator: torch.Generator) -> int:
    """Draw a random index, with probabilities in proportion to `shares`."""
    return int(torch.multinomial(torch.tensor(shares), 1, generator=generator))
