"""Sheet of a model's worst val pictures: `python benchmarks/failures.py DATA SCORES.json SHEET.jpg [--model FILE]`.

SCORES.json is the output of `accuracy.py DATA --json SCORES.json`. The ten worst of its val pictures are drawn, at most
two of a set, each beside the result: true positives blue, false positives red, false negatives yellow.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from accuracy import Picture, dubai, flood_area, nadir, placed, segmented, ucmerced
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve

COUNT, OF_A_SET, SIDE, LINE = 10, 2, 240, 16
"""Pictures in all and of a set; side of a picture and height of a line of text, in pixels."""
COLOURS = {"found": (40, 110, 255), "false": (255, 40, 40), "missed": (255, 225, 0)}


def worst(scores: dict[str, dict[str, list[float]]], pictures: list[Picture]) -> list[Picture]:
    """The worst pictures, by 1 - IoU where there is water, and by the share of false flood where there is none."""

    def badness(one: Picture) -> float:
        iou, false_share = scores[one.group][one.path.stem]
        return 1 - iou if (one.mask == 1).any() else false_share

    chosen: list[Picture] = []
    of_group: Counter[str] = Counter()
    scored = [one for one in pictures if one.path.stem in scores.get(one.group, {})]
    for one in sorted(scored, key=badness, reverse=True):
        if of_group[one.group] < OF_A_SET:
            of_group[one.group] += 1
            chosen.append(one)
    return chosen[:COUNT]


def drawn(one: Picture, codes: NDArray[np.uint8], text: str) -> Image.Image:
    """A picture, beside it the same with the result tinted, and a line of text above."""
    rgb = np.asarray(Image.open(one.path).convert("RGB"))
    predicted, reference = (codes >= 50) & (codes <= 100), one.mask == 1
    scored, shown = one.mask <= 1, rgb.astype(np.float32)
    for name, where in (
        ("found", predicted & reference),
        ("false", predicted & ~reference),
        ("missed", ~predicted & reference),
    ):
        shown[where & scored] = 0.45 * shown[where & scored] + 0.55 * np.array(COLOURS[name], np.float32)
    cell = Image.new("RGB", (2 * SIDE + 4, SIDE + LINE), "white")
    for number, pixels in enumerate((rgb, shown.astype(np.uint8))):
        picture = Image.fromarray(pixels)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        cell.paste(picture, (number * (SIDE + 4), LINE))
    ImageDraw.Draw(cell).text((2, 2), text, fill="black")
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--model", default="finetuned")
    options = parser.parse_args()
    scores, data = json.loads(options.scores.read_text())["pictures"], options.data
    pictures = [*flood_area(data), *dubai(data), *ucmerced(data), *nadir(data, final=False)]
    model, cells = load_segmenter(resolve(options.model), "auto"), []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(worst(scores, pictures), 1):
            iou, false_share = scores[one.group][one.path.stem]
            score = f"IoU {iou:.2f}" if (one.mask == 1).any() else f"dry; false flood {false_share:.0%}"
            text = f"{number}. {one.group}, {one.path.stem}: {score}"
            print(text)
            cells.append(drawn(one, segmented(placed(one, Path(folder)), model), text))
    wide, high = cells[0].size
    sheet = Image.new("RGB", (2 * wide + 8, (len(cells) + 1) // 2 * (high + 4)), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % 2 * (wide + 8), number // 2 * (high + 4)))
    sheet.save(options.sheet, quality=80)


if __name__ == "__main__":
    main()
