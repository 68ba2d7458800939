"""Early stop of a run whose model fails on every window: then the model is at fault, not the windows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from floodmap.errors import ModelError
from floodmap.geo.window import Window

MAX_FAILURES = 4
"""Number of first windows of a run that fail with the same error, after which the run is stopped."""
NOT_FINITE = "the model gave no number"
"""Message for a window with NaN or infinity among its probabilities."""

# Messages of numpy, torch's CPU allocator in two versions, CUDA, cuDNN and cuBLAS, and C++.
_MEMORY = re.compile(r"out ?of ?memory|(can't|cannot|unable to) alloc|not enough memory|alloc_failed|bad_alloc", re.I)
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+", re.I)


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of a model on a window."""

    why: str
    """The message, one line."""
    memory: bool = False
    """Whether memory ran out; then other windows, or the same one later, may succeed."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """From an exception: the first line of its message, or its type's name."""
        kind, lines = type(error).__name__, str(error).strip().splitlines()
        memory = isinstance(error, MemoryError) or bool(_MEMORY.search(f"{kind} {error}"))
        return cls(lines[0] if lines else kind, memory)

    def same_as(self, other: Failure) -> bool:
        """Whether two messages are equal but for numbers, which are sizes, positions and addresses."""
        return _NUMBER.sub("#", self.why) == _NUMBER.sub("#", other.why)


class Proof:
    """Whether a model works at all, from the first windows of a run that the model predicts."""

    def __init__(self) -> None:
        self._failures: dict[tuple[object, Window], Failure] = {}
        self._works = False

    @property
    def all_failed(self) -> bool:
        """Whether all windows so far failed with the same error; False without any window."""
        return bool(self._failures) and not self._works

    def add(self, path: object, window: Window, failure: Failure | None) -> None:
        """Add the next window that the model predicted or failed on, in the order of the windows.

        Args:
            path: the scene of the window.
            window: in the scene; a window predicted with several kinds of prompts counts once.
            failure: the model's error; None where it did not fail.

        Raises:
            ModelError: the first `MAX_FAILURES` windows failed with the same error, other than lack of memory.
        """
        if self._works:
            return
        if failure is None or failure.memory or not all(map(failure.same_as, self._failures.values())):
            self._works = True
            return
        self._failures[path, window] = failure
        if len(self._failures) == MAX_FAILURES:
            self.end()

    def end(self) -> None:
        """To be called after the last window.

        Raises:
            ModelError: there were windows, and all of them failed with the same error.
        """
        if self.all_failed:
            (path, _), failure = next(iter(self._failures.items()))
            raise model_failure(path, "on every window", failure)


def model_failure(path: object, where: str, failure: Failure) -> ModelError:
    """The error for a scene that cannot be segmented with a model; `where` it fails, such as "on every window"."""
    advice = "give it more memory" if failure.memory else "install floodmap and its libraries afresh"
    return ModelError(f"{path}: the model fails {where} ({failure.why}); try another --model or --device, or {advice}")
