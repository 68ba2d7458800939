"""Memory settings: huge pages, and how much freed memory is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HANGS, SceneFactory

from floodmap._runtime import memory

_ASK = """
from floodmap._runtime.memory import configure_low_memory, freed_memory_kept
configure_low_memory()
import sys
print("torch" in sys.modules or "numpy" in sys.modules)
with freed_memory_kept():
    import torch
    print(float(torch.ones(3_000_000).sum()))
"""


@pytest.mark.slow
def test_a_low_memory_process_computes_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "3000000.0"]


_FREE = """
from pathlib import Path
from floodmap._runtime.memory import configure_low_memory, freed_memory_kept
configure_low_memory()
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


def test_low_memory_settings_reach_torch_and_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def __init__(self) -> None:
            self.told: list[tuple[int, int]] = []

        def mallopt(self, parameter: int, value: int) -> None:
            self.told.append((parameter, value))

    libc = Libc()
    names = ("THP_MEM_ALLOC_ENABLE", "LRU_CACHE_CAPACITY", "MKL_DISABLE_FAST_MM")
    monkeypatch.setattr(memory, "_glibc", lambda: libc)
    monkeypatch.setattr(memory, "_has_huge_pages", lambda: True)
    with monkeypatch.context() as patch:
        for name in names:  # so that they are taken back
            patch.setenv(name, "")
            patch.delenv(name)
        memory.configure_low_memory()
        assert [os.environ[name] for name in names] == ["1"] * 3
    assert libc.told == [(-8, 1)]  # M_ARENA_MAX of malloc.h: one heap for all threads


@pytest.mark.slow
def test_the_command_sets_low_memory_before_it_loads_torch(make_scene: SceneFactory, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from floodmap._runtime import memory\n"
        "own = memory.configure_low_memory\n"
        "def watched():\n"
        "    print('sparing', 'torch' in sys.modules, 'numpy' in sys.modules)\n"
        "    own()\n"
        "memory.configure_low_memory = watched\n"
        "from floodmap_cli.main import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "segment", str(make_scene()), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=HANGS)
    assert done.stdout.splitlines()[0] == "sparing False False"
