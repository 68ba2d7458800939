"""Charts of a comparison as inline SVG, all in one style."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from floodmap.models.calibration import Histogram, by_threshold, reliability
from floodmap.output.pages.html import FAINT, INK, figure, svg_of

COLOURS = (
    "#7f8c9b", "#1668a8", "#d1622b", "#3f8f5a", "#8a5aa8", "#b08b00", "#3aa7b8", "#a83246", "#5b4636", "#d987b4",
)  # fmt: skip
"""Colours of the models, in the order of the comparison. In training curves, the first colour is not used."""
Values = NDArray[np.float64]
T = TypeVar("T")


def coloured(shown: Iterable[T], first: int = 0) -> Iterator[tuple[str, T]]:
    """Yield each element with its colour, from `COLOURS[first]`; the colours repeat if there are too few."""
    yield from zip(islice(cycle(COLOURS), first, None), shown, strict=False)


def _label(name: str) -> str:
    """Return a name as the label of a legend, with a space in front if the name begins with an underscore.

    matplotlib leaves out labels that begin with an underscore.
    """
    return f" {name}" if name.startswith("_") else name


def histograms(scores: Mapping[str, Mapping[str, Values]]) -> str:
    """Draw histograms of the scores of pictures, with one panel for each metric.

    Each panel has one histogram for each series (a model, a kind of prompt, or both), and a dashed line at the mean
    score of the series.

    Args:
        scores: mapping from the name of a metric to a mapping from the name of a series to the scores of the pictures,
            float64 (pictures,), 0 to 1; NaN if a picture has no such score.

    Returns:
        The chart as an `<svg>` element.
    """
    edges = np.linspace(0, 1, 21)
    with figure(2.6 * len(scores), 2.3, len(scores)) as (drawn, axes):
        for axis, (metric, series) in zip(axes, scores.items(), strict=True):
            for colour, (name, values) in coloured(series.items()):
                counts = np.histogram(values[np.isfinite(values)], edges)[0]
                axis.stairs(counts, edges, color=colour, fill=True, alpha=0.35)
                axis.stairs(counts, edges, color=colour, linewidth=1.4, label=_label(name))
                axis.axvline(np.nanmean(values), color=colour, linewidth=1.2, linestyle=(0, (4, 2)))
            axis.set(title=metric, xlim=(0, 1), xlabel="score")
            axis.yaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylabel("pictures")
        axes[0].legend(frameon=False, fontsize=8)
        return svg_of(drawn)


def bars(means: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> str:
    """Draw a bar chart of mean scores, with one group of bars for each metric and one bar for each model.

    Args:
        means: mapping from the name of a model to a mapping from the name of a metric to three values from 0 to 1: the
            mean score over the pictures, and the lower and the upper end of the 95 % interval of the mean.

    Returns:
        The chart as an `<svg>` element.
    """
    metrics = list(next(iter(means.values())))
    width = 0.8 / len(means)
    with figure(7.2, 2.7) as (drawn, (axis,)):
        for number, (colour, (model, scores)) in enumerate(coloured(means.items())):
            at = np.arange(len(metrics)) + (number - (len(means) - 1) / 2) * width
            mean, low, high = (np.array([scores[metric][i] for metric in metrics]) for i in range(3))
            axis.bar(at, mean, width * 0.92, color=colour, label=_label(model))
            axis.errorbar(at, mean, (mean - low, high - mean), fmt="none", ecolor=INK, elinewidth=1, capsize=2)
            for x, y in zip(at, mean, strict=True):
                axis.text(x, 0.02, f"{y:.2f}", ha="center", va="bottom", fontsize=7.5, color="white")
        axis.set(xticks=range(len(metrics)), xticklabels=metrics, ylim=(0, 1), ylabel="mean over pictures")
        axis.grid(axis="x", visible=False)
        axis.legend(frameon=False, fontsize=8, ncols=min(len(means), 5), loc="lower left", bbox_to_anchor=(0, 1))
        return svg_of(drawn)


def calibration(histograms_by_model: Mapping[str, Histogram]) -> str:
    """Draw a reliability diagram, precision against recall, and IoU against threshold, for all pictures together.

    Args:
        histograms_by_model: mapping from the name of a model to a histogram of pixels, int64 (101, 2). The row is the
            predicted probability in per cent. The column is the class in the reference: 0 dry, 1 flooded.

    Returns:
        The chart as an `<svg>` element.
    """
    with figure(8.4, 2.7, 3) as (drawn, axes):
        axes[0].plot([0, 1], [0, 1], color=FAINT, linewidth=1.2)
        for colour, (model, histogram) in coloured(histograms_by_model.items()):
            predicted, flooded, _ = reliability(histogram)
            axes[0].plot(predicted, flooded, color=colour, marker="o", markersize=3, linewidth=1.2, label=_label(model))
            iou, precision, recall = by_threshold(histogram)
            axes[1].plot(recall, precision, color=colour, linewidth=1.4)
            axes[2].plot(np.arange(1, 101) / 100, iou, color=colour, linewidth=1.4)
        axes[0].set(title="Calibration", xlabel="predicted probability", ylabel="share flooded")
        axes[0].set(xlim=(0, 1), ylim=(0, 1))
        axes[1].set(title="Precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes[2].set(title="IoU over threshold", xlabel="threshold", ylabel="pooled IoU", xlim=(0, 1), ylim=(0, 1))
        axes[2].axvline(0.5, color=FAINT, linewidth=1.2)
        axes[0].legend(frameon=False, fontsize=8)
        return svg_of(drawn)


def scatter(traits: Mapping[str, Values], scores: Mapping[str, Values]) -> str:
    """Draw scatter plots of the IoU of pictures, with one panel for each measure of `difficulty.Difficulty`.

    Args:
        traits: mapping from the label of a measure to the values of the pictures, float64 (pictures,).
        scores: mapping from the name of a model to the IoU of the pictures, float64 (pictures,), 0 to 1.

    Returns:
        The chart as an `<svg>` element.
    """
    with figure(2.5 * len(traits), 2.4, len(traits)) as (drawn, axes):
        for axis, (trait, values) in zip(axes, traits.items(), strict=True):
            for colour, (model, ious) in coloured(scores.items()):
                axis.scatter(
                    values, ious, s=12, facecolors="none", edgecolors=colour, linewidths=1.1, label=_label(model)
                )
            axis.set(title=trait, ylim=(0, 1.02))
        axes[0].set_ylabel("IoU")
        axes[0].legend(frameon=False, fontsize=8, loc="lower right")
        return svg_of(drawn)


def grouped(groups: Sequence[str], means: Mapping[str, Values], title: str) -> str:
    """Draw a bar chart of the mean IoU of groups of pictures, with one bar for each model in each group.

    Args:
        groups: names of the groups of pictures.
        means: mapping from the name of a model to the mean IoU of each group, float64 (groups,), 0 to 1; NaN for a
            group without pictures.
        title: title of the chart.

    Returns:
        The chart as an `<svg>` element.
    """
    width = 0.8 / len(means)
    with figure(3.9, 2.4) as (drawn, (axis,)):
        for number, (colour, (model, values)) in enumerate(coloured(means.items())):
            at = np.arange(len(groups)) + (number - (len(means) - 1) / 2) * width
            axis.bar(at, values, width * 0.92, color=colour, label=_label(model))
        axis.set(xticks=range(len(groups)), xticklabels=groups, ylim=(0, 1), title=title, ylabel="mean IoU")
        axis.grid(axis="x", visible=False)
        return svg_of(drawn)


def curves(log: Mapping[str, Values], x: str) -> str:
    """Draw training curves: losses in the left panel, IoU in the right panel.

    Args:
        log: mapping from the name of a column of the training log to the values, float64 (rows,). Columns with "loss"
            or "iou" in the name are drawn, unless the name ends with "unprompted".
        x: name of the column on the horizontal axis.

    Returns:
        The chart as an `<svg>` element.
    """
    shown = (name for name in log if name != x and not name.endswith("unprompted"))
    names = [name for name in shown if np.isfinite(log[name]).any()]
    sides = [[name for name in names if "loss" in name], [name for name in names if "iou" in name.lower()]]
    with figure(7.2, 2.5, 2) as (drawn, axes):
        for axis, side, title in zip(axes, sides, ("Loss", "IoU"), strict=True):
            for colour, name in coloured(side, 1):
                axis.plot(log[x], log[name], color=colour, linewidth=1.4, label=name.replace("_", " ").strip())
            axis.set(title=title, xlabel=x)
            if side:
                axis.legend(frameon=False, fontsize=8)
        return svg_of(drawn)
