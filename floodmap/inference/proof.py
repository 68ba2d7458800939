"""A model's first windows, which prove that it works: what goes wrong with all of them is no matter of windows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from floodmap.errors import ModelError
from floodmap.geo.window import Window

ENOUGH = 4
"""Windows that fail alike, the first of a run, after which it is given up."""
NO_NUMBER = "the model gave no number"
"""What is wrong with a window that has NaN or infinity among its probabilities."""

# Of numpy, torch's CPU allocator in two versions, CUDA, cuDNN and cuBLAS, and C++.
_MEMORY = re.compile(r"out ?of ?memory|(can't|cannot|unable to) alloc|not enough memory|alloc_failed|bad_alloc", re.I)
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+", re.I)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a model has nothing to say of a window."""

    why: str
    """One line."""
    memory: bool = False
    """Whether memory ran out: other windows, or the same one later, may do."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What an error says."""
        kind, lines = type(error).__name__, str(error).strip().splitlines()
        memory = isinstance(error, MemoryError) or bool(_MEMORY.search(f"{kind} {error}"))
        return cls(lines[0] if lines else kind, memory)

    def alike(self, other: Failure) -> bool:
        """Whether another says the same, numbers aside: they tell of sizes, places and addresses."""
        return _NUMBER.sub("#", self.why) == _NUMBER.sub("#", other.why)


class Proof:
    """Whether a model works at all, by the first windows of a run that reach it."""

    def __init__(self) -> None:
        self._failures: dict[tuple[object, Window], Failure] = {}
        self._given = False

    @property
    def doubtful(self) -> bool:
        """Whether all windows so far failed alike; not where there were none."""
        return bool(self._failures) and not self._given

    def see(self, path: object, window: Window, failure: Failure | None) -> None:
        """Take in the next window that reached the model, in the order of the windows.

        Args:
            path: its scene.
            window: of the scene; one that is seen with several kinds of prompts counts once.
            failure: why the model gave nothing for it; None where it did not fail.

        Raises:
            ModelError: the first `ENOUGH` windows failed alike, and not for want of memory.
        """
        if self._given:
            return
        if failure is None or failure.memory or not all(map(failure.alike, self._failures.values())):
            self._given = True
            return
        self._failures[path, window] = failure
        if len(self._failures) == ENOUGH:
            self.end()

    def end(self) -> None:
        """No further window comes.

        Raises:
            ModelError: there were some, and all of them failed alike.
        """
        if self.doubtful:
            (path, _), failure = next(iter(self._failures.items()))
            raise useless(path, "on every window", failure)


def useless(path: object, where: str, failure: Failure) -> ModelError:
    """The error of a model with which a scene cannot be segmented; `where` it fails: "on every window"."""
    advice = "give it more memory" if failure.memory else "install floodmap and its libraries afresh"
    return ModelError(f"{path}: the model fails {where} ({failure.why}); try another --model or --device, or {advice}")
