"""Computation of network layers strip by strip.

In this module, a strip is a group of full rows of a tensor (B, C, H, W), not of a scene. The activations of one strip
stay in a CPU's cache, and the peak memory is low.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def by_row_strips(layers: Callable[[int, int], Tensor], out: Tensor, *, rows: int, halo: int) -> Tensor:
    """Compute the result of some network layers in strips (groups of full rows), and write the strips into one tensor.

    Writing into one tensor avoids the fragmented memory that a list of strips would leave. Every strip is computed with
    `rows` + 2 `halo` rows (or all rows, if the result has fewer), because oneDNN keeps separate kernels in memory for
    every height. Where such a strip would reach beyond the result, it is moved inwards.

    Example: a result of 10 rows, with `rows` 4 and `halo` 1, is computed by `layers(0, 6)`, `layers(3, 9)` and
    `layers(4, 10)`. Rows 0 to 3 of the result are kept from the first strip, 4 to 7 from the second, 8 and 9 from the
    third.

    Args:
        layers: function of two row numbers of the result, `first` and `end`, halo included. It returns the rows from
            `first` up to, but not including, `end`: (B, C, end - first, W).
        out: tensor for the result, (B, C, H, W), filled in place.
        rows: number of rows that are kept of each strip.
        halo: least number of rows at the upper end and at the lower end of a strip that are computed but not kept.
            Their values are wrong, because some of the layers would need rows beyond the strip, which are not computed.
            An end of a strip that is the top or the bottom of the result has no halo: the rows there are right, because
            no rows lie beyond them. The halo may be 0 if `layers` itself reads the additional rows of its input, so
            that all rows that it returns are right.

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
