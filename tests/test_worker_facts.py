"""Properties by which workers are compared: versions in use, code, kinds of devices."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from floodmap._runtime import versions as runtime
from floodmap.scaleout.workers.facts import versions

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu sse2 avx2 avx512bw {}\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU implementer\t: 0x41\n"


def test_the_version_in_use_counts_and_not_the_one_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", SimpleNamespace(__version__="1.0+old"))
    assert versions()["numpy"] == "1.0"


def test_a_process_keeps_the_digest_of_the_code_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_runtime").mkdir()
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "_runtime" / "versions.py"))
    (code := tmp_path / "a.py").write_text("x = 1\n")
    runtime.code_digest.cache_clear()
    try:
        before = runtime.code_digest()
        code.write_text("x = 2\n")
        assert runtime.code_digest() == before  # in this process
        runtime.code_digest.cache_clear()  # a new process
        assert runtime.code_digest() != before
        code.write_bytes(b"x = 1\r\n")
        runtime.code_digest.cache_clear()
        assert runtime.code_digest() == before
    finally:
        runtime.code_digest.cache_clear()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INTEL.format(""), "avx2 avx512bw GenuineIntel"),
        (INTEL.format("amx_bf16 avx512_bf16"), "amx_bf16 avx2 avx512_bf16 avx512bw GenuineIntel"),
        (INTEL.format("").replace("GenuineIntel", "AuthenticAMD"), "avx2 avx512bw AuthenticAMD"),
        (ARM, "asimd bf16 sve 0x41"),
    ],
)
def test_cpus_with_other_kernels_are_of_another_kind(
    text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from floodmap.models import hardware

    (file := tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(hardware, "_CPUINFO", file)
    assert hardware.device_kind("cpu").endswith(expected)


def test_the_kind_of_a_gpu_is_that_of_the_models_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from floodmap.models import hardware

    def properties(device: torch.device) -> Any:
        return SimpleNamespace(name=f"GPU {device.index}", major=9, minor=0, multi_processor_count=132)

    monkeypatch.setattr(hardware, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert hardware.device_kind("cuda:1").startswith("cuda GPU 1, 9.0, 132 processors, CUDA")


def test_bfloat16_is_a_property_of_the_chosen_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from floodmap.models import loading

    current = [0]

    class Device:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            current.append(self.device.index)

        def __exit__(self, *error: object) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: current[-1] == 1)
    assert loading.pick_dtype(torch.device("cuda:1"), "auto") == torch.bfloat16
    assert loading.pick_dtype(torch.device("cuda:0"), "auto") == torch.float32
