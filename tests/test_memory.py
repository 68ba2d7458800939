"""Memory asked for in larger pages, and less of it kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

_ASK = """
from floodmap.memory import be_sparing, freed_memory_kept
be_sparing()
import os, sys
print(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"], "torch" in sys.modules or "numpy" in sys.modules)
with freed_memory_kept():
    import torch
    print(float(torch.ones(3_000_000).sum()))
"""


@pytest.mark.parametrize(("given", "capacity"), [(None, "128"), ("500", "500")])
def test_a_sparing_process_keeps_few_kernels_unless_told_otherwise(
    given: str | None, capacity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    if given:
        monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", given)
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [capacity, "False", "3000000.0"]
