from __future__ import annotations

from typing import Any

import pytest
import torch
from segment_anything.modeling.common import MLPBlock
from torch import nn

from floodmap.models.backends import onednn
from floodmap.models.backends.onednn import PackedLinear, conv_relu6, pack_linears

PRECISIONS = [(torch.float32, 1e-5), (torch.bfloat16, 0.02)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("kernel", "groups", "stride"), [(1, 1, 1), (3, 8, 1), (5, 8, 2), (3, 1, 2)])
def test_a_convolution_and_its_relu6_in_one_go_are_what_they_are_step_by_step(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, batch: int, kernel: int, groups: int,
    stride: int,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16 if groups == 1 else 8, kernel, stride, kernel // 2, groups=groups)
    conv = conv.to(dtype).to(memory_format=torch.channels_last)
    x = (4 * torch.randn(batch, 8, 40, 24)).to(dtype).to(memory_format=torch.channels_last)
    for part, padding in ((x, None), (x[:, :, 3:29], (0, kernel // 2))):
        with torch.inference_mode():
            at_once = conv_relu6(conv, part, padding)
            with monkeypatch.context() as patch:
                patch.setattr(onednn, "_CONVOLUTION", None)
                by_steps = conv_relu6(conv, part, padding)
        torch.testing.assert_close(at_once, by_steps, atol=tolerance, rtol=tolerance)
        assert 0 <= at_once.min() < at_once.max() <= 6


def test_gradients_go_through_a_convolution_and_its_relu6() -> None:
    conv, x = nn.Conv2d(2, 2, 3, padding=1), torch.randn(1, 2, 8, 8, requires_grad=True)
    conv_relu6(conv, x).sum().backward()
    assert x.grad is not None and conv.weight.grad is not None


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_packed_layers_give_what_the_layers_gave(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    block = MLPBlock(embedding_dim=48, mlp_dim=96).to(dtype)
    x = torch.randn(2, 5, 7, 48).to(dtype)
    with torch.inference_mode():
        expected = block(x)
        pack_linears(block)
        torch.testing.assert_close(block(x), expected, atol=tolerance, rtol=tolerance)
        assert block(x.float()).dtype == dtype
    assert isinstance(block.lin1, PackedLinear) and block.lin1.then == "gelu" and isinstance(block.act, nn.Identity)
    assert isinstance(block.lin2, PackedLinear) and block.lin2.then == "none"
    assert not list(block.parameters())


def test_without_the_calls_layers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_LINEAR", None)
    block = MLPBlock(embedding_dim=8, mlp_dim=16)
    pack_linears(block)
    assert isinstance(block.lin1, nn.Linear) and isinstance(block.act, nn.GELU)


def raising(*_: object) -> torch.Tensor:
    raise RuntimeError("no such operator")


REAL = {name: getattr(onednn, name) for name in ("_CONVOLUTION", "_LINEAR", "_PACK")}


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """No operator counts as failed before or after a test."""
    monkeypatch.setattr(onednn, "_disabled", {})


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "call"),
    [("_CONVOLUTION", raising), ("_CONVOLUTION", lambda x, *_: x),
     ("_CONVOLUTION", lambda *a: REAL["_CONVOLUTION"](*a) + 0.5), ("_LINEAR", raising),
     ("_LINEAR", lambda *a: REAL["_LINEAR"](*a) * 1.5), ("_LINEAR", lambda *a: REAL["_LINEAR"](*a) * float("nan")),
     ("_PACK", raising), ("_PACK", lambda weight, rows: REAL["_PACK"](weight * 2, rows))],
)  # fmt: skip
def test_a_call_that_fails_or_gives_something_else_is_not_used_and_a_line_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, call: Any, dtype: torch.dtype
) -> None:
    if not REAL[name]:
        pytest.skip("this torch has no such call, or this is no x86")
    monkeypatch.setattr(onednn, name, call)
    for _ in range(2):
        onednn.check(dtype)
    assert len(caplog.records) == 1 and "more slowly" in caplog.text
    torch.manual_seed(0)
    conv, x = nn.Conv2d(8, 8, 3, padding=1).to(dtype), torch.randn(1, 8, 20, 20).to(dtype)
    block, y = MLPBlock(embedding_dim=8, mlp_dim=16).to(dtype), torch.randn(1, 5, 7, 8).to(dtype)
    with torch.inference_mode():
        expected = block(y)
        pack_linears(block)
        torch.testing.assert_close(conv_relu6(conv, x), nn.functional.relu6(conv(x)), atol=0.02, rtol=0.02)
        torch.testing.assert_close(block(y), expected, atol=0.02, rtol=0.02)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_calls_that_work_are_used(caplog: pytest.LogCaptureFixture, dtype: torch.dtype) -> None:
    onednn.check(dtype)
    assert not caplog.records and not onednn._disabled


@pytest.mark.usefixtures("trusting")
def test_where_torch_does_not_report_bfloat16_models_run_in_float32(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", raising)
    assert not onednn.multiplies_bfloat16() and not onednn.multiplies_bfloat16()
    assert len(caplog.records) == 1 and "float32" in caplog.text
