"""One step of training: what a batch of pairs teaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floodmap.models.sam.common import FRAME, Encoded
from floodmap.models.sam.correction import Ground
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.training.checkpoint import Trainable
from floodmap.training.config import PROMPT_KINDS, TrainConfig
from floodmap.training.distributed import ProcessGroup
from floodmap.training.feature_cache import Encodings
from floodmap.training.loss import flood_loss, unsteadiness
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
    """Training mode, but for batch norms once they are to stay as they are, and for an encoder that is frozen."""
    model.train()
    if not any(parameter.requires_grad for parameter in model.image_encoder.parameters()):
        model.image_encoder.eval()
    if settled:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()


def train_step(trainer: Trainer, optimizer: torch.optim.Optimizer, group: ProcessGroup) -> float:
    """One step of the optimizer; returns the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = sum(trainer.step() for _ in range(trainer.config.accumulate)) / trainer.config.accumulate
    group.average_gradients(trainer.model)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    optimizer.step()
    return loss


class Trainer:
    """What a model is shown and asked.

    Args:
        model: gets the gradients.
        config: the run.
        batches: pairs of views.
        generator: the source of all other randomness.
        device: where the model is.
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
        self._encodings: Encodings | None = None

    def cache_features(self, folder: Path, report: Callable[[float, str], None]) -> None:
        """Encode batches once, on disk, to learn from these alone; the encoder is frozen."""
        set_training(self.model, settled=True)
        with torch.no_grad():
            self._encodings = Encodings(
                folder, self.config.cached_batches, self.batches.__getitem__, self._encode, self._decode_alone,
                lambda share: report(share, "encode"),
            )  # fmt: skip

    def step(self) -> float:
        """Add the gradients of one batch with one kind of prompt for the near views; returns the loss."""
        kind = PROMPT_KINDS[_draw(self.config.prompt_shares, self.generator)]
        if self._encodings is not None:
            batch = self._encodings.draw(self.generator, self.device)
            return self._learn_near(batch.encoded, batch.views, batch.colours, batch.coarse, kind)
        pairs = next(self.batches)
        far, near = pairs.far.to(self.device), pairs.near.to(self.device)
        logits, far_loss = self._learn(self._encode(far), far, {})
        coarse = coarse_prompt(logits, pairs)
        learns = kind != "points" or not isinstance(self.model, FloodSam)
        with torch.set_grad_enabled(learns):
            encoded = self._encode(near)
        near_loss = self._learn_near(encoded, near, cells_of(near.rgb), coarse, kind)
        return (far_loss + near_loss) / 2

    def _encode(self, views: Views) -> Encoded:
        views = views.to(self.device)
        learns = self.config.what != "decoder" and torch.is_grad_enabled()
        with torch.autocast(self.device.type, torch.bfloat16), torch.set_grad_enabled(learns):
            rgb = views.rgb.contiguous(memory_format=torch.channels_last)
            if isinstance(self.model, FloodSam):
                return self.model.encode(rgb, views.scored, views.gsd_m)
            return self.model.encode(rgb, views.scored)

    def _decode_alone(self, encoded: Encoded, **prompts: Any) -> Tensor:
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            return self.model.decode(encoded, **prompts)[0].float()

    def _learn_near(self, encoded: Encoded, views: Views, colours: Tensor, coarse: Tensor, kind: str) -> float:
        config, chance = self.config, self.generator
        # Decoding parts as well costs a third of a step, so not every one does it; points would have to be cut; and of
        # encoded views parts are all that is ever seen.
        steadied = self._encodings is None and kind in ("none", "coarse") and config.steadiness > 0
        steadied = steadied and _draw((0.5, 0.5), chance) == 1
        has_mask = kind == "coarse" or (kind != "none" and _draw((1 - config.joined, config.joined), chance) == 1)
        prompts: dict[str, Any] = {}
        if has_mask:
            prompts["masks"] = drop_flood(
                perturb_coarse(coarse, config.perturbed, chance), config.flood_dropped, chance
            )
        if kind == "box":
            prompts["boxes"] = simulate_boxes(views.target, views.scored, chance)
        if kind != "points":
            return self._learn(encoded, views, prompts, steadied=steadied)[1]
        if isinstance(self.model, FloodSam):
            some = slice(0 if self.config.thorough else 2 * len(views.target) // 3, None)
            prompts = {name: prompt[some] for name, prompt in prompts.items()}
            return self._learn_correction(self.model, encoded[some], views[some], colours[some], prompts)
        views = self._understood(views, colours)
        guess = self._decode_alone(encoded, **prompts)
        for _ in range(self._draw_rounds()):
            prompts["points"] = self._click(views, guess, prompts.get("points"))
            guess = self._decode_alone(encoded, **prompts)
        return self._learn(encoded, views, prompts)[1]

    def _learn_correction(
        self, model: FloodSam, encoded: Encoded, views: Views, colours: Tensor, prompts: dict[str, Any]
    ) -> float:
        """Points come after the decoder: its first run has no gradients, that with what they corrected has."""
        total, series = 0.0, 2 if self.config.thorough else 1
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            decoded = model.decode_unpointed(encoded, **prompts)
            ground = Ground.of(decoded.logits, encoded.embedding, decoded.features)
        for _ in range(series):
            understood = self._understood(views, colours)
            points = self._draw_points(model, ground, understood)
            # Autocasts of their own: older torch reuses weights that were cast without gradients.
            with torch.autocast(self.device.type, torch.bfloat16):
                corrected = model.corrector.correct(ground, points)
                seen = model.decode_corrected(encoded, ground, corrected.detach(), points)
                losses = (
                    flood_loss(one, decoded.iou.float(), understood.target, views.scored, self.config.dry_weight)
                    for one in (corrected, seen)
                )
                loss = sum(losses, torch.zeros((), device=self.device)) / (2 * series)
                (loss / self.config.accumulate).backward()
                total += float(loss.detach())
        return total

    def _draw_points(self, model: FloodSam, ground: Ground, views: Views) -> tuple[Tensor, Tensor]:
        """Points in rounds: some at random, or one by one as models are compared."""
        one_by_one = _draw((0.5, 0.5), self.generator) == 1
        if one_by_one:
            points = deepest_points(views.target, views.scored, None)
            rounds = _draw((1.0,) * 8, self.generator)
        else:
            points = self._click(views, ground.logits, None)
            rounds = self._draw_rounds() - 1
        for _ in range(rounds):
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
                guess = model.corrector.correct(ground, points, roughly=not self.config.thorough)
            points = self._click(views, guess, points, one_by_one=one_by_one)
        return points

    def _understood(self, views: Views, colours: Tensor) -> Views:
        """Views with another notion of flood in some of them; see `simulated_prompts.relabel_region`."""
        share = self.config.relabelled
        return replace(views, target=relabel_region(colours, views.target, views.scored, share, self.generator))

    def _draw_rounds(self) -> int:
        return 1 + _draw((1.0, 1.0, 1.0, 1.0), self.generator)

    def _click(
        self, views: Views, guess: Tensor, points: tuple[Tensor, Tensor] | None, *, one_by_one: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Further points where a result is wrong, as in training SAM (arXiv:2304.02643, appendix A)."""
        if one_by_one:
            xy, labels = deepest_points(views.target, views.scored, guess > 0)
        else:
            xy, labels = simulate_points(views.target, views.scored, guess > 0, self.generator)
        if points is None:
            return xy, labels
        return torch.cat([points[0], xy], dim=1), torch.cat([points[1], labels], dim=1)

    def _learn(
        self, encoded: Encoded, views: Views, prompts: dict[str, Any], *, steadied: bool = False
    ) -> tuple[Tensor, float]:
        """Add the gradients of one batch of views; returns their logits and the loss."""
        size = max(views.target.shape[1:])
        offset_xy = torch.randint(0, FRAME - size + 1, (len(views.target), 2), generator=self.generator).float()
        unsteady: Tensor | float = 0.0
        with torch.autocast(self.device.type, torch.bfloat16):
            logits, iou = self.model.decode(encoded, offset_xy=offset_xy.to(self.device), **prompts)
            if steadied and isinstance(self.model, FloodSam):
                unsteady = unsteadiness(
                    self.model, encoded, logits, prompts.get("masks"), views.scored, self.generator
                )  # fmt: skip
        loss = flood_loss(logits.float(), iou.float(), views.target, views.scored, self.config.dry_weight)
        loss = loss + self.config.steadiness * unsteady
        (loss / self.config.accumulate).backward()
        return logits.detach().float(), float(loss.detach())


def _draw(shares: Sequence[float], generator: torch.Generator) -> int:
    return int(torch.multinomial(torch.tensor(shares), 1, generator=generator))
