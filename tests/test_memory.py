"""Memory asked for in larger pages, and less of it kept."""

from __future__ import annotations

import subprocess
import sys

_ASK = """
from floodmap.memory import be_sparing, freed_memory_kept
be_sparing()
import sys
print("torch" in sys.modules or "numpy" in sys.modules)
with freed_memory_kept():
    import torch
    print(float(torch.ones(3_000_000).sum()))
"""


def test_a_sparing_process_still_does_its_sums() -> None:
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "3000000.0"]
