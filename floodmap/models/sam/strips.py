"""Layers computed in row strips: large activations then stay in a CPU's cache, and peak memory is low."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def by_row_strips(layers: Callable[[int, int], Tensor], out: Tensor, *, rows: int, halo: int) -> Tensor:
    """Compute layers in row strips, written into one tensor: a list of strips would fragment the memory.

    All strips have one height, at the borders too: oneDNN keeps other kernels in memory for every height.

    Args:
        layers: computes rows of the result, (B, C, end - first, W), from `first` up to `end`.
        out: the result, (B, C, H, W), filled in place.
        rows: rows of a strip that are kept.
        halo: further rows above and below these, which are wrong since the layers' input ends at the strip's border;
            there is no halo at the borders of the result.

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
