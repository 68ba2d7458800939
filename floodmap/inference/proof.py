"""Early stop of a run in which the model fails on every window, because the cause then lies in the model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from floodmap.errors import ModelError
from floodmap.geo.window import Window

MAX_FAILURES = 4
"""Number of windows after which a run is stopped, if the model fails on all windows so far with the same error.
Windows that are not passed to the model do not count, for example windows in which every pixel is unobserved. Lack of
memory does not stop a run."""
NOT_FINITE = "the model returned NaN or infinity"
"""Error message for a window with NaN or infinity among its probabilities."""

# Lack of memory in messages of numpy, torch's CPU allocator in two versions, CUDA, cuDNN and cuBLAS, and C++.
_MEMORY = re.compile(r"out ?of ?memory|(can't|cannot|unable to) alloc|not enough memory|alloc_failed|bad_alloc", re.I)
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+", re.I)


@dataclass(frozen=True, slots=True)
class Failure:
    """Record of an exception that a model raised on a window."""

    why: str
    """Error message, one line."""
    memory: bool = False
    """True if memory ran out. Other windows, or the same window later, may then succeed."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Make a failure from an exception.

        The error message is the first line of the exception's message. If the exception has no message, the name of the
        exception's type is used.
        """
        kind, lines = type(error).__name__, str(error).strip().splitlines()
        memory = isinstance(error, MemoryError) or bool(_MEMORY.search(f"{kind} {error}"))
        return cls(lines[0] if lines else kind, memory)

    def same_as(self, other: Failure) -> bool:
        """Return True if two failures have the same error message, apart from numbers (sizes, positions, addresses)."""
        return _NUMBER.sub("#", self.why) == _NUMBER.sub("#", other.why)


class Proof:
    """Record of a model's failures on the first windows passed to it in a run, to find out whether it works at all."""

    def __init__(self) -> None:
        self._failures: dict[tuple[object, Window], Failure] = {}
        self._works = False

    @property
    def all_failed(self) -> bool:
        """True if all windows added so far failed with one error, and not for lack of memory; False without windows."""
        return bool(self._failures) and not self._works

    def add(self, path: object, window: Window, failure: Failure | None) -> None:
        """Add the outcome of the next window that was passed to the model, in the order of the windows.

        Args:
            path: path of the window's scene.
            window: the window in pixels of the scene. A window that is predicted with several kinds of prompts counts
                once.
            failure: the model's error; None if the model did not fail.

        Raises:
            ModelError: the first `MAX_FAILURES` windows failed with the same error, and not for lack of memory.
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
        """Check the record after the last window.

        Raises:
            ModelError: at least one window was added, and all added windows failed with the same error, and not for
                lack of memory.
        """
        if self.all_failed:
            (path, _), failure = next(iter(self._failures.items()))
            raise model_failure(path, "on every window", failure)


def model_failure(path: object, where: str, failure: Failure) -> ModelError:
    """Build the error for a scene that cannot be segmented, because the model fails.

    Args:
        path: path of the scene.
        where: "on every window" or "in the coarse pass". The text becomes a part of the error message.
        failure: the error of the model.
    """
    advice = "free memory" if failure.memory else "reinstall floodmap"
    return ModelError(f"{path}: the model fails {where} ({failure.why}); try another --model or --device, or {advice}")
