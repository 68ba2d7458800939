"""Layers applied to some rows at a time: large features then stay in a CPU's cache, and little memory is taken."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def by_row_strips(layers: Callable[[int, int], Tensor], out: Tensor, *, rows: int, halo: int) -> Tensor:
    """Fill `out` strip by strip; strips kept apart until all are done would leave holes of all sizes in memory.

    All strips are equally high, at the borders too: for every height oneDNN has other kernels in memory.

    Args:
        layers: gives rows of the result, (B, C, end - first, W), from `first` up to `end`.
        out: the result, (B, C, H, W), to be filled in place.
        rows: of the result that are kept of a strip.
        halo: rows above and below them that come out wrong, for layers see no further than the strip; none at the
            borders of the result.

    Returns:
        `out`.
    """
    height = out.shape[2]
    high = min(rows + 2 * halo, height)
    for top in range(0, height, rows):
        first = max(0, min(top - halo, height - high))
        strip = layers(first, first + high)
        out[:, :, top : top + rows] = strip[:, :, top - first : top - first + rows]
    return out
