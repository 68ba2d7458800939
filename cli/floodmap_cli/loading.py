"""Loading of a model for a command: in this process, or in worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from floodmap.models.protocol import Segmenter
    from floodmap.models.registry import ResolvedModel
    from floodmap.scaleout.workers.run import Workers


@contextmanager
def open_model(
    model: str, device: str, flips: bool, workers: int | None, scheduler: str | None, allow_mixed: bool
) -> Iterator[tuple[Segmenter, Workers | None]]:
    """Context manager: load a model in this process, or in worker processes.

    Yields:
        The model; and the worker processes, or None if this process computes the windows.
    """
    from floodmap.models.mirrored import Mirrored
    from floodmap.scaleout.workers.opening import needs_workers, open_workers

    if needs_workers(workers, scheduler, device):
        with open_workers(
            _resolve(model), workers=workers, scheduler=scheduler, device=device, flips=flips, allow_mixed=allow_mixed
        ) as runner:
            yield runner.segmenter, runner
        return
    segmenter = load(model, device)
    yield (Mirrored(segmenter) if flips else segmenter), None


def load(model: str, device: str) -> Any:
    """Load a model in this process."""
    resolved = _resolve(model)
    from floodmap.models.loading import load_segmenter

    return load_segmenter(resolved, device)


def _resolve(model: str) -> ResolvedModel:
    """Find the file of a model. If the file is not on this machine, download the file, with a progress bar."""
    from floodmap.models.registry import resolve

    from .terminal import progress_bar

    with progress_bar(f"Fetching {model}", unit="bytes") as update:
        return resolve(model, progress=update)
