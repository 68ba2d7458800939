"""`RemoteSegmenter`: a model in worker processes, with the interface of a loaded model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import WorkerError
from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts
from floodmap.scaleout.workers.facts import Facts
from floodmap.scaleout.workers.model import ModelSource
from floodmap.scaleout.workers.pool import Call, Lost, Pool, in_order
from floodmap.scaleout.workers.worker import ood_score


class RemoteSegmenter:
    """Model in worker processes. This process imports no torch for it, and has no copy of the weights.

    Args:
        pool: the worker processes.
        model: description of the model.
        facts: properties of the model as loaded by a worker.
        batch_size: batch size with the highest throughput on the machine of this process.
    """

    def __init__(self, pool: Pool, model: ModelSource, facts: Facts, batch_size: int) -> None:
        self.name, self.sha256, self.runs_on = facts.name, facts.sha256, facts.runs_on
        self.training, self.knows_floods, self.multiple = facts.training, facts.knows_floods, facts.multiple
        self.any_size, self.best_batch_size = facts.any_size, batch_size
        self.offloads = facts.offloads or not pool.same_machine  # the cores of this machine are free for other work
        self._pool, self._model = pool, model

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[np.float32]]:
        """Raise WorkerError: windows are predicted in chunks, by `Workers.run_windows`, without sending tiles."""
        raise WorkerError("a model in worker processes predicts whole scenes only; use load_model for single pictures")

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        """Compute the out-of-distribution score of a scene in a worker; see `protocol.Segmenter`.

        Raises:
            WorkerError: the call ended several workers.
        """
        call = Call(ood_score, (self._model, list(tiles)))
        score: float | Lost = next(in_order(self._pool, iter([call]), ahead=1))
        if isinstance(score, Lost):
            raise WorkerError(f"the model cannot be used: {score.why}; free memory, or use fewer workers")
        return score
