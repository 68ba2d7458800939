"""Scores of many scenes: mean scores and pooled scores with bootstrap intervals, and output as table, CSV and JSON."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from floodmap._runtime.files import atomic_path
from floodmap.errors import OutputError, writing
from floodmap.evaluation.scores import COUNTS, METRICS, Floats, Metric, Scores, number, ratio

RESAMPLES = 5000
"""Number of bootstrap resamples.

With another seed, the ends of an interval move by about 1/100 of the width of the interval.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of one or many scenes, mean scores and pooled scores, and the files that could not be scored."""

    scenes: tuple[Scores, ...]
    """Scores of each scene, sorted by name of the scene."""
    unpaired_predictions: tuple[str, ...] = ()
    """Prediction files without a reference."""
    unpaired_references: tuple[str, ...] = ()
    """Reference files without a prediction."""
    refused: tuple[str, ...] = ()
    """One line of text for each pair of files that could not be compared: name of the scene, and reason.

    Mean scores and pooled scores do not include the scenes of refused pairs.
    """
    seen: tuple[str, ...] = ()
    """One warning for each model that was trained or validated on some of the scenes."""
    seed: int = 0
    """Seed of the bootstrap."""

    @property
    def pooled(self) -> Scores:
        """Scores of all scenes pooled: counts and hectares are summed, so that large scenes have a large weight."""
        sums: dict[str, Any] = {name: sum(getattr(s, name) for s in self.scenes) for name in (*COUNTS, "unobserved")}
        for name in ("predicted_ha", "reference_ha"):
            areas = [getattr(scene, name) for scene in self.scenes]
            sums[name] = None if None in areas else sum(areas)
        units = {scene.tolerance_unit for scene in self.scenes}
        tolerances = {scene.tolerance for scene in self.scenes}
        sums["tolerance"] = tolerances.pop() if len(tolerances) == len(units) == 1 else None
        return Scores(name="pooled", tolerance_unit="m" if units == {"m"} else "px", **sums)

    def mean(self, metric: Metric | Literal["observed_share"]) -> float | None:
        """Return the mean of a score over all scenes. Every scene has the same weight.

        None is returned if there are no scenes. The mean of `area_error_ha` is also None if a scene has no CRS and
        therefore no area.
        """
        values = [getattr(scene, metric) for scene in self.scenes]
        return None if not values or None in values else float(np.mean(values))

    def interval(
        self, metric: Metric, *, pooled: bool = False, rng: np.random.Generator | None = None
    ) -> tuple[float, float] | None:
        """Compute the 95 % interval of a mean or pooled score by the percentile bootstrap over scenes (Efron 1979).

        The interval shows how much the score would vary with other scenes of the same kind. The interval does not
        include the effect of errors in the references.

        Args:
            metric: name of the score.
            pooled: True: interval of the pooled score; False: interval of the mean.
            rng: random generator of the resamples. None: a generator with the seed `seed`, so that intervals repeat.

        Returns:
            Lower and upper end, in the unit of the score. None for fewer than two scenes, or if `mean(metric)` is None.
        """
        count = len(self.scenes)
        if count < 2 or self.mean(metric) is None:
            return None
        rng = np.random.default_rng(self.seed) if rng is None else rng
        # draws[i, j] is the number of times that scene j is in resample i, which is sufficient for sums and means.
        draws = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
        resampled: Floats
        if pooled and metric != "area_error_ha":
            resampled = ratio(metric, draws @ np.stack([scene.counts for scene in self.scenes]))
        else:
            resampled = draws @ np.array([getattr(scene, metric) for scene in self.scenes])
            resampled = resampled if pooled else resampled / count
        low, high = np.percentile(resampled, (2.5, 97.5))
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as types that JSON can store.

        The content is the scores of each scene, mean scores and pooled scores with intervals, files without a
        counterpart, refused pairs, warnings, and the settings of the bootstrap.
        """
        summary = {"mean": self._summary(pooled=False), "pooled": self._summary(pooled=True)}
        unpaired = {"predictions": list(self.unpaired_predictions), "references": list(self.unpaired_references)}
        return {
            "scenes_count": len(self.scenes),
            "scenes": [scene.to_json() for scene in self.scenes],
            **summary,
            "unpaired": unpaired,
            "refused": list(self.refused),
            "seen": list(self.seen),
            "bootstrap": {"resamples": RESAMPLES, "seed": self.seed},
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of a table, each a mapping from the name of a column to a value.

        There is one row per scene, then one row of mean scores and one row of pooled scores. The last two rows contain
        the ends of the intervals, too.
        """
        rows = [{"kind": "scene", **scene.to_json()} for scene in self.scenes]
        for kind, summary in (("mean", self._summary(pooled=False)), ("pooled", self._summary(pooled=True))):
            row: dict[str, Any] = {"kind": kind, "name": f"{kind} of {len(self.scenes)}"}
            row["observed_share"] = summary["observed_share"]
            for metric in METRICS:
                low, high = summary[metric]["interval_95"] or (None, None)
                row |= {metric: summary[metric]["value"], f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
        return rows

    def _summary(self, *, pooled: bool) -> dict[str, Any]:
        pool = self.pooled
        summary: dict[str, Any] = {}
        for metric in METRICS:
            value = number(getattr(pool, metric)) if pooled else self.mean(metric)
            interval = self.interval(metric, pooled=pooled)
            summary[metric] = {"value": value, "interval_95": None if interval is None else list(interval)}
        return summary | {"observed_share": pool.observed_share if pooled else self.mean("observed_share")}

    def write_csv(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the result of `rows` to a CSV file in UTF-8, with one header line. Undefined values are empty.

        Raises:
            OutputError: the file exists and `overwrite` is not set, or the file cannot be written.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already; choose another name or overwrite it")
        rows = self.rows()
        with writing(path), atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)

    def table(self) -> str:
        """Return the scores as one text of several lines, in aligned columns.

        The first lines are the warnings of `seen`. There is one row per scene. For several scenes, rows of mean scores
        and of pooled scores follow, each with the intervals in the next row.
        """
        rows = self.rows() if len(self.scenes) > 1 else self.rows()[:1]
        lines = [["scene", *_COLUMNS.values()]]
        for row in rows:
            lines.append([row["name"], *(_shown(column, row[column]) for column in _COLUMNS)])
            if row["kind"] != "scene":
                lines.append(["  95 %", *(_shown_interval(column, row) for column in _COLUMNS)])
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = [*self.seen]
        for name, *cells in lines:
            right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            text.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
        return "\n".join(text)


_COLUMNS = {
    "observed_share": "observed",
    "iou": "IoU",
    "dice": "Dice",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "boundary_f1": "boundary F1",
    "area_error_ha": "area error ha",
}


def _shown(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    if column == "observed_share":
        # Rounded down, so that 100.0 % appears only for scenes without any unobserved pixel.
        return f"{np.floor(value * 1000) / 10:.1f} %"
    return f"{value:+.3f}" if column == "area_error_ha" else f"{value:.3f}"


def _shown_interval(column: str, row: dict[str, Any]) -> str:
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    return "" if low is None or high is None else f"{_shown(column, low)} to {_shown(column, high)}"
