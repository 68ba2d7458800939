"""The shipped weights on the sample scene, compared with a result that was checked by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from floodmap import evaluate, segment

SAMPLE = Path(__file__).parents[1] / "sample_tiles" / "village.tif"
REFERENCE = SAMPLE.with_name("village_reference.tif")
SEEN = Path(__file__).with_name("village_probability.png")
"""Flood probability in per cent, means of 4 x 4 pixels; 255 where none of them was observed."""


@pytest.mark.slow
def test_the_shipped_model_finds_the_flood_of_the_sample_scene_as_it_did(tmp_path: Path) -> None:
    flood_map = segment(SAMPLE, out=tmp_path, device="cpu")
    assert evaluate(flood_map.mask_path, REFERENCE).scenes[0].iou >= 0.90
    with rasterio.open(flood_map.probability_path) as dataset:
        percent = np.ma.masked_greater(dataset.read(1), 100).astype(np.float64)
    means = percent.reshape(320, 4, 320, 4).mean(axis=(1, 3))
    expected = np.ma.masked_greater(np.asarray(Image.open(SEEN)), 100).astype(np.float64)
    assert np.ma.getmaskarray(means).tolist() == np.ma.getmaskarray(expected).tolist()
    assert np.abs(means - expected).mean() <= 1.0
    # Transposed convolutions leave a checkerboard, which smoothing the logits wipes out: no step is larger than others.
    for along in (percent, percent.T):
        steps = np.abs(np.diff(along, axis=1))
        phases = [float(steps[:, first::4].mean()) for first in range(4)]
        assert max(phases) < 1.08 * min(phases)
