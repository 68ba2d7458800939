from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import HANGS

ALONE = """
import sys
import floodmap.models.sam.flood_sam, floodmap.models.sam.meta_sam
assert not {"torchvision", "torch._dynamo", "segment_anything.predictor"} & set(sys.modules)
import segment_anything
from floodmap.models.sam.modeling import ImageEncoderViT
assert ImageEncoderViT is type(segment_anything.sam_model_registry["vit_b"]().image_encoder)
"""
AFTER = """
import segment_anything.modeling
import floodmap.models.sam.modeling
assert floodmap.models.sam.modeling.ImageEncoderViT is segment_anything.modeling.ImageEncoderViT
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [ALONE, AFTER])
def test_the_modules_are_those_of_the_package_and_come_alone(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
