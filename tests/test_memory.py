"""Memory asked for in larger pages, and less of it kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

from floodmap import memory

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


_FREE = """
import time
from floodmap.memory import _resident, be_sparing, freed_memory_kept
be_sparing()
import numpy
with freed_memory_kept():
    kept = [numpy.ones(1 << 17) for _ in range(300)]  # of 1 MB each
    wall = numpy.ones(10)
    full, kept = _resident(), None
    apart = []
    while _resident() > full and len(apart) < 40:
        apart.append(numpy.ones(800_000))  # out of the heap, until much has gathered
        time.sleep(0.1)
    print(len(apart) < 40)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not memory._glibc() or not memory._has_huge_pages(),
    reason="glibc keeps what is freed, and large blocks are apart where there are huge pages",
)
def test_what_is_freed_is_handed_back_once_much_has_gathered() -> None:
    done = subprocess.run([sys.executable, "-c", _FREE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
