"""Computation of layers in row strips, so that large activations stay in a CPU's cache and peak memory is low."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def by_row_strips(layers: Callable[[int, int], Tensor], out: Tensor, *, rows: int, halo: int) -> Tensor:
    """Compute layers in row strips and write the strips into one tensor; a list of strips would fragment the memory.

    All strips have the same height, also at the borders, because oneDNN keeps further kernels in memory for every
    height.

    Args:
        layers: function of `first` and `end` that computes the rows from `first` up to `end` of the result,
            (B, C, end - first, W).
        out: the result, (B, C, H, W), filled in place.
        rows: number of rows of a strip that are kept.
        halo: number of further rows that are computed above and below a strip and dropped. They are wrong, because the
            layers' input ends there. There is no halo at the borders of the result.

    Returns:
        `out`.
    """
    height = out.shape[2]
    strip_height = min(rows + 2 * halo, height)
    for top in range(0, height, rows):
        first = max(0, min(top - halo, height - strip_height))
        strip = layers(first, first + strip_height)
        out[:, :, top : top + rows] = strip[:, :, top - first : top - first + rows]
    return out
