"""Loading of a model for a command, with a progress bar while weights are downloaded."""

from __future__ import annotations

from typing import Any


def load(model: str, device: str) -> Any:
    """Load a model. If the weights are not on this machine, download the weights first, with a progress bar."""
    from floodmap.models.registry import resolve

    from .progress import progress_bar

    with progress_bar(f"Fetching {model}", unit="bytes") as update:
        resolved = resolve(model, progress=update)
    from floodmap.models.loading import load_segmenter

    return load_segmenter(resolved, device)
