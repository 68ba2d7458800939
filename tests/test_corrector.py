from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from floodmap.models.sam.correction import (
    CELL,
    EVERYWHERE,
    FEATURE_SCALES,
    LONG_RANGE,
    NOISE,
    POINT_LOGIT,
    SHORT_RANGE,
    Corrector,
    Ground,
    Kriging,
    appearance_of,
    krigings_of,
)

DIM = 16


def make_ground(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embedding and features, (1, 16, 8, 12) and (1, 2, 64, 96), of ground whose left and right look different."""
    generator = torch.Generator().manual_seed(seed)
    embedding, features = torch.zeros(1, DIM, 8, 12), torch.zeros(1, DIM // 8, 64, 96)
    for planes in (embedding, features):
        half = planes.shape[-1] // 2
        planes[:, 0, :, :half] = 1.0
        planes[:, 1, :, half:] = 1.0
        planes += 0.05 * torch.randn(planes.shape, generator=generator)
    return embedding, features


def point(x: float, y: float, label: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([[[x, y]]]), torch.tensor([[label]])


def correct(
    corrector: Corrector, logits: Tensor, ground: tuple[Tensor, Tensor], points: tuple[Tensor, Tensor]
) -> Tensor:
    outputs = Ground.of(logits, *ground)
    return corrector.correct(outputs, krigings_of(outputs, points))


def test_a_point_spreads_over_ground_that_looks_alike_and_not_beyond() -> None:
    corrector, dry = Corrector(DIM), torch.full((1, 64, 96), -2.0)
    corrected = correct(corrector, dry, make_ground(), point(40, 60, 1))[0]
    assert (corrected[:, :40] > 0).float().mean() > 0.9
    assert (corrected[:, 60:] < -1).all()
    again = correct(corrector, -dry, make_ground(), point(40, 60, 0))[0]
    torch.testing.assert_close(again, -corrected)


def test_beyond_its_reach_a_point_shifts_the_whole_picture_a_little() -> None:
    embedding, features = torch.ones(1, DIM, 8, 128), torch.ones(1, DIM // 8, 64, 1024)
    dry = torch.full((1, 64, 1024), -1.0)
    corrected = correct(Corrector(DIM), dry, (embedding, features), point(1000, 60, 1))[0, 30]
    assert corrected[500] > 0 and (corrected[:100] < -0.7).all() and (corrected[:100] > -0.8).all()


def test_an_untrained_corrector_keeps_what_points_only_confirm() -> None:
    corrector, logits = Corrector(DIM), torch.full((1, 64, 96), 2 * POINT_LOGIT)
    assert torch.equal(correct(corrector, logits, make_ground(), point(40, 60, 1)), logits)
    assert torch.equal(correct(corrector, logits, make_ground(), point(0, 0, -1)), logits)


@pytest.mark.slow
def test_pictures_of_a_batch_have_points_of_their_own() -> None:
    torch.manual_seed(0)
    corrector = Corrector(DIM)
    torch.nn.init.normal_(corrector.last.weight)
    logits, one = torch.full((3, 64, 96), -2.0), make_ground()
    ground = torch.cat([one[0]] * 3), torch.cat([one[1]] * 3)
    xy = torch.tensor([[[40.0, 60.0], [0, 0]], [[0, 0], [0, 0]], [[150, 20], [160, 90]]])
    labels = torch.tensor([[1, -1], [-1, -1], [1, 1]])
    together = correct(corrector, logits, ground, (xy, labels))
    for i, count in ((0, 1), (2, 2)):
        alone = correct(corrector, logits[:1], one, (xy[i : i + 1, :count], labels[i : i + 1, :count]))
        torch.testing.assert_close(together[i], alone[0], atol=1e-4, rtol=1e-4)
    assert torch.equal(together[1], logits[1])


def test_results_agree_with_points_whatever_the_network_predicts() -> None:
    corrector = Corrector(DIM)
    corrector.last.bias.data.fill_(-2.0)
    corrected = correct(corrector, torch.full((1, 64, 96), -2.0), make_ground(), point(40, 60, 1))[0]
    assert corrected[30, 20] > POINT_LOGIT / 2 and corrected[5, 90] < -6


def test_the_correction_is_what_a_gaussian_process_of_another_library_predicts() -> None:
    from sklearn import gaussian_process as process
    from sklearn.gaussian_process import kernels

    embedding, features = make_ground()
    embedding = embedding[0, :, :1, :1].expand(-1, 8, 12)  # the same everywhere: nothing is interpolated
    features = F.avg_pool2d(features, 2)[0]
    logits = torch.randn(32, 48, generator=torch.Generator().manual_seed(1))
    rows, cols, labels = np.array([3, 20, 30]), np.array([5, 30, 40]), np.array([1, 0, 1])
    xy = torch.from_numpy(np.stack([cols, rows], axis=1) * CELL + 1.5)
    ours = Kriging(appearance_of(embedding[None], features[None])[0], xy, torch.from_numpy(labels))(logits) - logits

    fine = F.normalize(features, dim=0).numpy() / FEATURE_SCALES[1]
    place = np.indices(fine.shape[1:]) * float(CELL)
    cells = np.concatenate([fine, place]).reshape(len(fine) + 2, -1).T
    (far, share_far), (near, share_near) = LONG_RANGE, SHORT_RANGE
    kernel = kernels.ConstantKernel(share_far) * kernels.RBF([1.0] * len(fine) + [far] * 2)
    kernel += kernels.ConstantKernel(share_near) * kernels.RBF([10**0.5] * len(fine) + [near] * 2)
    kernel += kernels.ConstantKernel(EVERYWHERE)
    at = rows * fine.shape[2] + cols
    sign = labels * 2 - 1
    residual = sign * np.maximum(POINT_LOGIT - sign * logits.numpy().reshape(-1)[at], 0)
    fitted = process.GaussianProcessRegressor(kernel, alpha=NOISE, optimizer=None).fit(cells[at], residual)
    expected = torch.from_numpy(fitted.predict(cells)).float().reshape(fine.shape[1:])
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_the_corrector_gets_gradients_and_its_inputs_get_none() -> None:
    corrector, logits = Corrector(DIM), torch.full((1, 64, 96), -2.0, requires_grad=True)
    ground = [x.requires_grad_() for x in make_ground()]
    correct(corrector, logits, ground, point(40, 60, 1)).sum().backward()
    assert corrector.last.weight.grad is not None and corrector.last.weight.grad.abs().max() > 0
    assert all(x.grad is None for x in (logits, *ground))
