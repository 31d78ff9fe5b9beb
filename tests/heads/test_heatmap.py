"""The heatmap head: what of its config reaches the map, its losses and its prediction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.small_heads import CHANNELS, SIZE, STRIDES, build, features

from kpnet import decoding
from kpnet.coordinates import normalized_to_pixel
from kpnet.core.errors import KpnetError
from kpnet.heads.decoders import DECODERS
from kpnet.heads.heatmap import HeatmapHead, HeatmapOutput


def test_heatmap_losses_see_what_the_config_says() -> None:
    """sigma is in input pixels; the cross-entropy sees the logits as the softmax does, a regressed map does not."""
    spec = {"name": "heatmap", "stride": 2, "sigma": 3.0, "temperature": 0.5}
    head = build({**spec, "loss": {"l1": 2.0, "cross_entropy": 0.5, "map_mse": 4.0, "mse": 0.0}}).eval()
    output, target, weight = head(features()), torch.rand(2, 5, 2) - 0.5, torch.ones(2, 5)
    assert output.logits is not None
    assert output.logits.shape == (2, 5, 24, 32)
    terms = head.loss(output, target, weight)
    assert list(terms) == ["l1", "cross_entropy", "map_mse"]
    torch.testing.assert_close(terms["l1"], 2 * (output.xy - target).abs().mean())
    # Drawn in input pixels: cell j is the pixels 2 j and 2 j + 1, its centre at 2 j + 0.5.
    pixels = normalized_to_pixel(target, SIZE)
    x, y = 2 * torch.arange(32) + 0.5, 2 * torch.arange(24) + 0.5
    drawn = torch.exp(
        -((x - pixels[..., :1])[..., None, :] ** 2 + (y - pixels[..., 1:])[..., :, None] ** 2) / (2 * 3.0**2)
    )
    soft = drawn / drawn.sum((-2, -1), keepdim=True)
    dense = F.cross_entropy((output.logits / 0.5).flatten(2).flatten(0, 1), soft.flatten(2).flatten(0, 1))
    torch.testing.assert_close(terms["cross_entropy"], 0.5 * dense)
    torch.testing.assert_close(terms["map_mse"], 4 * F.mse_loss(output.logits, drawn))


def test_heatmap_coordinates_use_the_temperature() -> None:
    warm, cold = build({"name": "heatmap"}).eval(), build({"name": "heatmap", "temperature": 0.1}).eval()
    warm.load_state_dict(cold.state_dict())
    a, b = warm(features()), cold(features())
    assert a.logits is not None
    assert b.logits is not None
    assert torch.equal(a.logits, b.logits)
    assert b.xy.abs().mean() > a.xy.abs().mean()  # sharper, so further from the centre of a nearly flat map


@pytest.mark.parametrize("name", ["soft_argmax", "local", "dark", "blend", "quarter", "argmax"])
def test_heatmap_decodings_are_those_of_the_softmaxs_logits(name: str) -> None:
    spec = {"name": "heatmap", "decoding": name, "window": 2, "temperature": 0.5}
    head = build(spec).eval()
    output = head(features())
    assert isinstance(output, HeatmapOutput)
    z = output.logits / 0.5
    expected = {
        "soft_argmax": output.xy,
        "local": decoding.local_soft_argmax2d(z, 2),
        "dark": decoding.dark_decode2d(z),
        "blend": (output.xy + decoding.dark_decode2d(z)) / 2,
        "quarter": decoding.quarter_offset2d(z),
        "argmax": decoding.argmax2d(z),
    }
    torch.testing.assert_close(head.infer(output).keypoints, expected[name])
    torch.testing.assert_close(output.xy, decoding.soft_argmax2d(output.logits, 0.5))


def test_heatmap_confidence_is_the_mass_within_five_percent() -> None:
    head = build({"name": "heatmap", "stride": 4}, 2)
    logits = torch.full((1, 2, 12, 16), -30.0)
    logits[0, 0, 5, 6] = 30  # sure
    logits[0, 1, 5, 2] = logits[0, 1, 5, 10] = 30  # torn between two places: none at the mean of them
    xy = torch.stack([(2 * torch.tensor([6.0, 6.0]) + 1) / 16 - 1, (2 * torch.tensor([5.0, 5.0]) + 1) / 12 - 1], -1)
    prediction = head.infer(HeatmapOutput(xy[None], logits))
    assert prediction.confidence is not None
    assert prediction.covariance is not None
    assert prediction.confidence[0].tolist() == pytest.approx([1, 0], abs=1e-5)
    spread = (4 * 2 / 16) ** 2  # 4 cells of 16, normalised
    assert prediction.covariance[0, 1].flatten().tolist() == pytest.approx([spread, 0, 0, 0], abs=1e-5)


def test_heatmap_multiple_is_its_decoders() -> None:
    for stride, multiple in ((2, 4), (4, 4), (8, 8), (16, 16)):
        for decoder in DECODERS:
            head = build({"name": "heatmap", "decoder": decoder, "stride": stride})
            assert isinstance(head, HeatmapHead)
            assert head.size_divisor == multiple
            sizes = (5 * multiple, 3 * multiple)
            maps = [
                torch.rand(1, c, -(-sizes[0] // s), -(-sizes[1] // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)
            ]
            assert head.eval()(maps).logits.shape[-2:] == (sizes[0] // stride, sizes[1] // stride)


def test_heatmap_predictions_in_float32_under_autocast() -> None:
    head = build("heatmap").eval()
    exact = head(features()).xy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(features())
        terms = head.loss(output, torch.zeros(2, 5, 2), torch.ones(2, 5))
    assert output.logits is not None
    assert output.logits.dtype == torch.bfloat16
    assert output.xy.dtype == torch.float32
    assert all(t.dtype == torch.float32 for t in terms.values())
    torch.testing.assert_close(output.xy, exact, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"stride": 0}, "stride: Input should be greater than 0, found 0"),
        ({"stride": -2}, "stride: Input should be greater than 0, found -2"),
        ({"stride": 2.5}, "stride: .*found 2.5"),
        ({"stride": 32}, "stride 32 is coarser than the backbone's coarsest map"),
        ({"temperature": 0}, "temperature: Input should be greater than 0, found 0"),
        ({"sigma": -1}, "sigma: Input should be greater than 0, found -1"),
        (
            {"decoder": "topdown"},
            r'unknown decoder "topdown" \(did you mean "top_down"\?\); there are: aspp, deconv, top_down, unet, up',
        ),
        ({"decoder": 3}, 'head "heatmap": decoder: .*found 3'),
        ({"decoder": {"width": 3}}, 'decoder: expected a name or a mapping with a "name"'),
        (
            {"decoder": {"name": "deconv", "widht": 3}},
            r'decoder "deconv": unknown key "widht" \(did you mean "width"\?\)',
        ),
        ({"decoder": {"name": "deconv", "width": 0}}, 'decoder "deconv": width: Input should be greater than 0'),
    ],
)
def test_bad_heatmap_options(option: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        build({"name": "heatmap", **option})
    assert "\n" not in str(caught.value)


def test_each_stage_predicts_and_is_supervised() -> None:
    head = build({"name": "heatmap", "stages": 3, "loss": {"l1": 1.0}}).eval()
    output, target, weight = head(features()), torch.rand(2, 5, 2) - 0.5, torch.ones(2, 5)
    assert isinstance(output, HeatmapOutput)
    assert len(output.earlier) == 2
    stages = [decoding.soft_argmax2d(logits) for logits in (*output.earlier, output.logits)]
    expected = torch.stack([(xy - target).abs().mean() for xy in stages]).mean()
    torch.testing.assert_close(head.loss(output, target, weight)["l1"], expected)
