"""Properties by which workers are compared: versions in use, code, kinds of devices."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SceneFactory
from fakes import FakeSegmenter, FakeSource

from floodmap._runtime import versions as runtime
from floodmap.errors import OutputError, WorkerError
from floodmap.inference.loop import run_windows
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene
from floodmap.scaleout.workers import run
from floodmap.scaleout.workers.facts import Facts, refuse_mixture, versions

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


# Workers that may differ.


def facts(**changed: Any) -> Facts:
    return Facts(**{
        "place": "host:1", "versions": versions(), "device": "cpu AVX512", "name": "fake", "sha256": "0" * 64,
        "knows_floods": True, "multiple": 32, "any_size": True, "best_batch_size": 1, "offloads": False,
        "runs_on": "cpu float32", "training": None, **changed,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"device": "cpu AVX2"}, "device cpu AVX2, not cpu AVX512"),
        ({"runs_on": "cpu bfloat16"}, "precision cpu bfloat16"),
        ({"sha256": "1" * 64}, "weights 1111"),
        ({"versions": {**versions(), "GDAL": "3.1.0"}}, "GDAL 3.1.0"),
    ],
)
def test_workers_that_differ_are_refused(changed: dict[str, Any], said: str) -> None:
    refuse_mixture([facts(), facts(place="other:2")])
    with pytest.raises(WorkerError, match=said) as raised:
        refuse_mixture([facts(), facts(place="other:2", **changed)])
    assert "other:2" in str(raised.value) and "--allow-mixed" in str(raised.value)


def test_workers_that_differ_from_the_client_are_refused() -> None:
    with pytest.raises(WorkerError, match=r"numpy 1\.0"):
        refuse_mixture([facts(versions={**versions(), "numpy": "1.0"})])


def workers_of(*found: Facts, same_machine: bool = True, allow_mixed: bool = True) -> run.Workers:
    pool = SimpleNamespace(everywhere=lambda *_: list(found), same_machine=same_machine, size=len(found))
    return run.Workers(pool, FakeSource(), allow_mixed=allow_mixed)


def test_workers_that_may_differ_leave_a_trace() -> None:
    one, other = facts(), facts(device="cpu AVX2")
    assert not workers_of(one, one).mixed and not workers_of(one, one, allow_mixed=False).mixed
    mixed = workers_of(other, one, one).mixed
    assert [kind["device"] for kind in mixed] == ["cpu AVX2", "cpu AVX512"]
    assert mixed == workers_of(one, other).mixed  # the order of the workers does not matter when a run is resumed
    assert len(workers_of(facts(versions={**versions(), "numpy": "1.0"})).mixed) == 1  # other than the client
    assert len(workers_of(one, same_machine=False).mixed) == 1  # a worker of another kind may join later


def test_a_run_of_mixed_workers_is_resumed_by_such_workers_alone(make_scene: SceneFactory, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        run_windows(*_, **__)
        raise KeyboardInterrupt

    kinds = [{"device": "cpu AVX2"}, {"device": "cpu AVX512"}]
    workers = SimpleNamespace(mixed=kinds, size=2, run_windows=broken)
    scene, out = make_scene(shape_hw=(100, 100)), tmp_path / "out"
    options = SegmentOptions(tile_size=64, overlap=8, prompts="none")
    with pytest.raises(KeyboardInterrupt):
        segment_scene(scene, out, FakeSegmenter(), options, workers=workers)
    resume = replace(options, resume=True)
    with pytest.raises(OutputError, match="kinds of the workers differ"):
        segment_scene(scene, out, FakeSegmenter(), resume)
    workers.run_windows = run_windows
    result = segment_scene(scene, out, FakeSegmenter(), resume, workers=workers)
    assert result.report["model"]["mixed"] == kinds
