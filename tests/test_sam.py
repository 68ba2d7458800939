from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, TwoWayTransformer

from floodmap.errors import ModelError
from floodmap.models.sam.correction import POINT_LOGIT, Ground, krigings_of
from floodmap.models.sam.decoder import Decoder
from floodmap.models.sam.efficientnet import Depthwise, EncoderConfig, InvertedResidual, PyramidEncoder, fuse
from floodmap.models.sam.flood_sam import FloodSam, draw_boxes
from floodmap.models.sam.meta_sam import build_sam

TINY = EncoderConfig(stem=16, widths=(16, 16, 16, 16, 16, 16, 32), depths=(1, 1, 1, 1, 1, 1, 1), embed_dim=64)


def make_decoder(kind: type[MaskDecoder]) -> MaskDecoder:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=64, num_heads=4, mlp_dim=128)
    return kind(transformer_dim=64, transformer=transformer).eval()


@torch.no_grad()
def test_decoding_several_images_at_once_equals_the_package_one_by_one() -> None:
    ours, stock = make_decoder(Decoder), make_decoder(MaskDecoder)
    generator = torch.Generator().manual_seed(1)
    embeddings, pe = torch.randn(3, 64, 8, 8, generator=generator), torch.randn(1, 64, 8, 8, generator=generator)
    sparse, dense = torch.randn(3, 2, 64, generator=generator), torch.randn(3, 64, 8, 8, generator=generator)
    masks, quality = ours.predict_masks(embeddings, pe, sparse, dense)
    for i in range(3):
        part = slice(i, i + 1)
        one_mask, one_quality = stock.predict_masks(embeddings[part], pe, sparse[part], dense[part])
        torch.testing.assert_close(masks[part], one_mask, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(quality[part], one_quality, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_a_full_vit_b_state_dict_loads_and_encodes_as_the_package_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stock = sam_model_registry["vit_b"]().eval()
    for name, parameter in stock.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero at first, so a mistake in them would not show
            torch.nn.init.normal_(parameter, std=0.02)
    torch.save(stock.state_dict(), tmp_path / "sam_vit_b.pth")
    ours = build_sam(torch.load(tmp_path / "sam_vit_b.pth", weights_only=True)).eval()
    rgb = torch.randint(0, 256, (1, 3, 1024, 1024), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(1, 1024, 1024, dtype=torch.bool)
    encoded = ours.encode(rgb, valid)
    expected = stock.image_encoder(stock.preprocess(rgb))
    assert (encoded.embedding - expected).norm() / expected.norm() < 1e-5
    point, others, box = [[300.0, 200.0]], [[30.0, 20.0], [900.0, 700.0]], [[100.0, 50.0], [500.0, 350.0]]
    sets = [(point, [1], None), (others, [1, 0], None), ([], [], box), (others, [0, 1], box)]
    xy, labels = torch.zeros(4, 8, 2), torch.full((4, 8), -2)
    for row, (points, kinds, corners) in enumerate(sets):
        places, all_kinds = points + (corners or [[0.0, 0.0]]), kinds + ([2, 3] if corners else [-1])
        xy[row, : len(places)], labels[row, : len(places)] = torch.tensor(places), torch.tensor(all_kinds)
    found = ours.best_masks(expected.expand(4, -1, -1, -1), xy, labels)
    for one, (points, kinds, corners) in zip(found, sets, strict=True):
        sparse, dense = stock.prompt_encoder(
            points=(torch.tensor([points]), torch.tensor([kinds])) if points else None,
            boxes=torch.tensor(corners).view(1, 4) if corners else None, masks=None,
        )  # fmt: skip
        several = len(points) == 1 and not corners
        masks, iou = stock.mask_decoder(expected, stock.prompt_encoder.get_dense_pe(), sparse, dense, several)
        torch.testing.assert_close(one, masks[0, iou[0].argmax()], rtol=1e-3, atol=1e-3)


def test_a_state_dict_of_another_network_is_refused() -> None:
    with pytest.raises(ModelError, match="not a checkpoint of SAM"):
        build_sam({"weight": torch.zeros(3)})
    with pytest.raises(ModelError, match="does not fit"):
        build_sam({"image_encoder.patch_embed.proj.weight": torch.zeros(768, 3, 16, 16)})


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_depthwise_gradients_are_those_of_a_plain_convolution(size: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = Depthwise(24, size, stride).double()
    x = torch.randn(2, 24, 16, 32, dtype=torch.float64, requires_grad=True)
    gradients = []
    for forward in (layer.forward, lambda x: torch.nn.Conv2d.forward(layer, x)):
        x.grad = None
        layer.zero_grad()
        forward(x).square().sum().backward()
        assert x.grad is not None and layer.weight.grad is not None and layer.bias is not None
        gradients.append([x.grad, layer.weight.grad, layer.bias.grad])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


@torch.no_grad()
def test_fused_batch_norms_change_nothing() -> None:
    torch.manual_seed(0)
    encoder = PyramidEncoder(TINY)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    x = torch.randn(2, 3, 64, 96)
    expected = encoder.eval()(x)
    fuse(encoder)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.modules())
    torch.testing.assert_close(encoder(x)[0], expected[0], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_tiles_of_any_size_give_logits_at_half_of_it() -> None:
    torch.manual_seed(0)
    network = FloodSam(TINY).eval()
    for shape in ((32, 32), (64, 160)):
        logits, quality = network(torch.rand(2, 3, *shape) * 255, torch.ones(2, *shape, dtype=torch.bool))
        assert logits.shape == (2, shape[0] // 2, shape[1] // 2)
        assert quality.shape == (2,)


@torch.no_grad()
def test_boxes_lie_where_the_tile_lies_in_the_frame() -> None:
    torch.manual_seed(0)
    network = FloodSam(TINY).eval()
    rgb, valid = torch.rand(1, 3, 64, 64) * 255, torch.ones(1, 64, 64, dtype=torch.bool)
    encoded, box, place = network.encode(rgb, valid), torch.tensor([[8.0, 8, 40, 50]]), torch.tensor([[80.0, 160.0]])
    told = Mock(wraps=network.prompt_encoder)
    network._modules["prompt_encoder"] = told
    network.decode(encoded, boxes=box, offset_xy=place)
    assert told.call_args.args[1].tolist() == [[88, 168, 120, 210]]
    assert (draw_boxes(torch.zeros(1, 1, 16, 16), box)[0, 0] == 0).nonzero().flatten().unique().tolist() == list(
        range(2, 13)
    )


@torch.no_grad()
def test_without_boxes_the_place_in_the_frame_does_not_matter() -> None:
    torch.manual_seed(0)
    network = FloodSam(TINY).eval()
    rgb, valid = torch.rand(1, 3, 64, 64) * 255, torch.ones(1, 64, 64, dtype=torch.bool)
    masks, points = torch.randn(1, 1, 16, 16), (torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]))
    for prompts in ({"masks": masks}, {"points": points}, {"masks": masks, "points": points}):
        here, there = (network(rgb, valid, offset_xy=torch.full((1, 2), at), **prompts)[0] for at in (0.0, 300.0))
        assert torch.equal(here, there)


@torch.no_grad()
def test_blank_pixels_do_not_reach_the_result() -> None:
    torch.manual_seed(0)
    network = FloodSam(TINY).eval()
    rgb, valid = torch.rand(1, 3, 64, 64) * 255, torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, :, 40:] = False
    other = rgb.clone()
    other[..., 40:] = 255.0
    torch.testing.assert_close(network(rgb, valid)[0], network(other, valid)[0])


@pytest.mark.parametrize(("kernel_size", "stride", "expansion"), [(3, 1, 1), (3, 2, 6), (5, 2, 6), (5, 1, 6)])
def test_a_block_by_strips_is_the_same_block(
    kernel_size: int, stride: int, expansion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    block = InvertedResidual(16, 16, kernel_size, stride, expansion).eval()
    x = torch.randn(2, 16, 70, 32)
    with torch.inference_mode():
        whole = block(x)
        five_rows = 2 * 16 * expansion * 32 * 4 * 5
        monkeypatch.setattr("floodmap.models.sam.efficientnet.STRIP_BYTES", five_rows)
        monkeypatch.setattr(block, "_by_strips", Mock(wraps=block._by_strips))
        torch.testing.assert_close(block(x), whole)
    assert block._by_strips.call_args.args[1] == 5 // stride


@pytest.mark.slow
@torch.inference_mode()
def test_images_encoded_a_few_at_a_time_equal_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = FloodSam(TINY).eval()
    torch.nn.init.normal_(network.mask_decoder.refine2.norm_weight)  # zero at first, so a mistake would not show
    rgb, valid = torch.rand(4, 3, 64, 96) * 255, torch.ones(4, 64, 96, dtype=torch.bool)
    together, _ = network(rgb, valid)
    apart = torch.cat([network(rgb[i : i + 1], valid[i : i + 1])[0] for i in range(4)])
    for cells in (1, 3 * 16 * 24):  # each alone; three and one
        monkeypatch.setattr("floodmap.models.sam.efficientnet.STRIP_CELLS", 4 * cells)
        monkeypatch.setattr("floodmap.models.sam.decoder.STRIP_CELLS", max(16 * 24, cells))
        by_images, _ = network(rgb, valid)
        torch.testing.assert_close(by_images, together, rtol=0, atol=1e-4)
        torch.testing.assert_close(by_images, apart, rtol=0, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_corrected_results_are_decoded_again_and_tiles_without_points_keep_theirs() -> None:
    torch.manual_seed(0)
    network = FloodSam(TINY).eval()
    torch.nn.init.normal_(network.point_maps.weight)
    encoded = network.encode(torch.rand(2, 3, 64, 96) * 255, torch.ones(2, 64, 96, dtype=torch.bool))
    points = torch.tensor([[[40.0, 30.0]], [[0.0, 0.0]]]), torch.tensor([[1], [-1]])
    decoded = network.decode_unpointed(encoded)
    both = network.correct(encoded, decoded, points)
    assert torch.equal(both[1], decoded.logits[1]) and both[0, 15, 20] > POINT_LOGIT / 2
    alone = network.correct(encoded[:1], network.decode_unpointed(encoded[:1]), (points[0][:1], points[1][:1]))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-4)
    ground = Ground.of(decoded.logits, encoded.embedding, decoded.features)
    krigings = krigings_of(ground, points)
    corrected = network.corrector.correct(ground, krigings)
    seen = network.decode_corrected(encoded, ground, corrected, krigings)
    torch.testing.assert_close(both[0], (corrected[0] + seen[0]) / 2)
    network.point_maps.weight.zero_()
    assert not torch.allclose(network.decode_corrected(encoded, ground, corrected, krigings), seen)


@pytest.mark.slow
@pytest.mark.parametrize("shape_hw", [(1024, 96), (832, 64), (288, 160), (32, 32)])
def test_logits_computed_by_strips_of_rows_equal_those_of_all_rows(
    shape_hw: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    network = FloodSam(TINY).eval()
    torch.nn.init.normal_(network.mask_decoder.refine2.norm_weight)  # zero at first, so a mistake would not show
    rgb = torch.randint(0, 256, (1, 3, *shape_hw), dtype=torch.uint8)
    valid = torch.ones(1, *shape_hw, dtype=torch.bool)
    with torch.no_grad():
        by_strips, _ = network(rgb, valid)
    whole, _ = network(rgb, valid)  # as with gradients
    torch.testing.assert_close(by_strips, whole.detach(), rtol=0, atol=1e-5)
