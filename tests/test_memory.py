"""Memory asked for in larger pages, and less of it kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

from floodmap._runtime import memory

_ASK = """
from floodmap._runtime.memory import be_sparing, freed_memory_kept
be_sparing()
import sys
print("torch" in sys.modules or "numpy" in sys.modules)
with freed_memory_kept():
    import torch
    print(float(torch.ones(3_000_000).sum()))
"""


@pytest.mark.slow
def test_a_sparing_process_still_does_its_sums() -> None:
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "3000000.0"]


_FREE = """
from pathlib import Path
from floodmap._runtime.memory import be_sparing, freed_memory_kept
be_sparing()
import numpy

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

with freed_memory_kept():
    kept = [numpy.ones(1 << 17) for _ in range(300)]  # of 1 MB each
    wall = numpy.ones(10)
    full, kept = resident(), None
    print(resident() > 0.9 * full)
print(resident() < full - 50_000)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not memory._glibc() or not memory._has_huge_pages(),
    reason="glibc keeps what is freed, and large blocks are apart where there are huge pages",
)
def test_what_is_freed_is_kept_for_the_next_window_and_handed_back_after_the_last() -> None:
    done = subprocess.run([sys.executable, "-c", _FREE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
