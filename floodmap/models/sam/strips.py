"""Computation of layers in row strips, so that large activations stay in a CPU's cache and peak memory is low."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def by_row_strips(layers: Callable[[int, int], Tensor], out: Tensor, *, rows: int, halo: int) -> Tensor:
    """Compute the result of some layers in strips (groups of full rows), and write the strips into one tensor.

    Writing into one tensor avoids the fragmented memory that a list of strips would leave. All strips have the same
    height, even at the borders of the result, because oneDNN keeps separate kernels in memory for every height.

    Args:
        layers: function of two row numbers, `first` and `end`. It returns the rows of the result from `first` up to,
            but not including, `end`: (B, C, end - first, W).
        out: tensor for the result, (B, C, H, W), filled in place.
        rows: number of rows of a strip that are kept.
        halo: number of rows above and below a strip that are computed and dropped. The values of these rows are wrong,
            because the layers do not read the input beyond these rows. There is no halo at the borders of the result.

    Returns:
        The tensor `out`.
    """
    height = out.shape[2]
    strip_height = min(rows + 2 * halo, height)
    for top in range(0, height, rows):
        first = max(0, min(top - halo, height - strip_height))
        strip = layers(first, first + strip_height)
        out[:, :, top : top + rows] = strip[:, :, top - first : top - first + rows]
    return out
