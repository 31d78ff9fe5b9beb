"""What every head promises, with every decoder; then each head's own."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpnet import decoding, losses
from kpnet.coordinates import normalized_to_pixel
from kpnet.errors import KpnetError
from kpnet.heads import HEADS, Head, Pyramid, list_heads
from kpnet.heads.decoders import DECODERS
from kpnet.heads.flow import ResidualFlow
from kpnet.heads.heatmap import HeatmapHead, HeatmapOutput
from kpnet.heads.multi import MultiHead, MultiOutput
from kpnet.heads.offset import OffsetOutput, vote_error
from kpnet.heads.simcc import SimCCHead, SimCCOutput

STRIDES = [4, 8, 16]
CHANNELS = [3, 4, 6]
SIZE = (48, 64)


def pyramid(size: tuple[int, int] = SIZE) -> Pyramid:
    return Pyramid(CHANNELS, STRIDES, [(size[0] // s, size[1] // s) for s in STRIDES])


def features(batch: int = 2, size: tuple[int, int] = SIZE, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, size[0] // s, size[1] // s, generator=g) for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


def build(spec: Any, keypoints: int = 5) -> Head:
    torch.manual_seed(0)
    return HEADS.build(spec, pyramid(), keypoints)


def specs() -> list[Any]:
    """Every head, with every decoder where it takes one: a new file is tested by being registered."""
    found: list[Any] = []
    for name, cls in sorted(HEADS.items()):
        if name == "multi":
            continue
        takes = "decoder" in inspect.signature(cls).parameters
        found += [{"name": name, "decoder": d} for d in sorted(DECODERS)] if takes else [{"name": name}]
    return found


VARIANTS = [
    {"name": "regression", "pool": "avg", "hidden": [], "activation": "none"},
    {"name": "regression", "hidden": [16, 8], "dropout": 0.5, "loss": {"l1": 1.0, "smooth_l1": 0.5}},
    {"name": "heatmap", "stride": 2, "temperature": 0.5, "loss": {"mse": 1.0, "map_mse": 2.0, "smooth_l1": 1.0}},
    {"name": "heatmap", "stride": 8, "loss": {"cross_entropy": 1.0}},
    {"name": "heatmap", "stages": 3, "temperature": "learned", "hardest": 2, "loss": {"kl": 1.0, "js": 1.0}},
    {"name": "heatmap", "temperature": 0.05, "loss": {"map_mse": 1.0, "adaptive_wing": 0.1}, "decoding": "dark"},
    {"name": "heatmap", "loss": {"wing": 1.0, "variance": 0.1}, "decoding": "local"},
    {"name": "offset", "decoding": "argmax", "loss": {"offset": 1.0, "cross_entropy": 0.5, "l1": 0.2}},
    {"name": "simcc", "bins": 3, "hardest": 3, "loss": {"cross_entropy": 1.0, "wing": 0.5}},
    {"name": "rle", "pool": "avg", "hidden": [], "loss": {"nll": 0.5, "l1": 1.0}},
    {"name": "multi", "heads": {"coarse": {"name": "laplace_nll"}, "fine": {"name": "heatmap"}}},
    {"name": "multi", "heads": {"a": "rle", "b": "simcc"}, "weights": {"a": 0.1}, "answer": "fused"},
]
BOUNDED = ("heatmap", "simcc")  # and the regression with its tanh


def label(spec: dict[str, Any]) -> str:
    return "-".join(str(v) for v in spec.values() if isinstance(v, (str, int)))


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.fixture(params=[*specs(), *VARIANTS], ids=label)
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


class TestEveryHead:
    @pytest.mark.parametrize("keypoints", [1, 5])
    @pytest.mark.parametrize("batch", [0, 1, 3])
    def test_shapes(self, spec: dict[str, Any], keypoints: int, batch: int) -> None:
        head = build(spec, keypoints).eval()
        output = head(features(batch))
        assert output.xy.shape == (batch, keypoints, 2)
        answer = head.infer(output)
        assert answer.keypoints.shape == (batch, keypoints, 2)
        assert (answer.confidence is None) == (answer.covariance is None)
        if answer.confidence is not None and answer.covariance is not None:
            assert answer.confidence.shape == (batch, keypoints)
            assert answer.covariance.shape == (batch, keypoints, 2, 2)
            assert ((answer.confidence >= 0) & (answer.confidence <= 1)).all()
            assert (torch.linalg.eigvalsh(answer.covariance) > 0).all()
        if answer.heatmaps is not None:
            assert answer.heatmaps.shape[:2] == (batch, keypoints)
            torch.testing.assert_close(answer.heatmaps.sum((-2, -1)), torch.ones(batch, keypoints))

    def test_answers_lie_on_the_image(self, spec: dict[str, Any]) -> None:
        if spec["name"] in BOUNDED or (spec["name"] == "regression" and spec.get("activation") != "none"):
            assert build(spec)([100 * f for f in features()]).xy.abs().max() <= 1

    def test_every_parameter_gets_a_gradient(self, spec: dict[str, Any]) -> None:
        """Distributed training stops at an unused parameter."""
        head = build(spec)
        maps = [f.requires_grad_() for f in features(4)]
        terms = head.loss(head(maps), torch.rand(4, 5, 2) * 2 - 1, torch.ones(4, 5))
        total(terms).backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        assert maps[-1].grad is not None
        assert maps[-1].grad.abs().sum() > 0

    def test_another_number_of_points_is_refused(self, spec: dict[str, Any]) -> None:
        head = build(spec)
        with pytest.raises(ValueError, match=r"\(2, 4, 2\)") as caught:
            head.loss(head(features()), torch.zeros(2, 4, 2), torch.ones(2, 4))
        assert "\n" not in str(caught.value)

    def test_the_answer_is_differentiable(self, spec: dict[str, Any]) -> None:
        maps = [f.requires_grad_() for f in features()]
        build(spec).eval()(maps).xy.sum().backward()
        assert maps[-1].grad is not None
        assert maps[-1].grad.abs().sum() > 0

    def test_answers_are_float32_under_autocast(self, spec: dict[str, Any]) -> None:
        head = build(spec).eval()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = head(features())
            terms = head.loss(output, torch.zeros(2, 5, 2), torch.ones(2, 5))
            answer = head.infer(output)
        found = [output.xy, *terms.values(), answer.keypoints, answer.confidence, answer.covariance]
        assert all(value is None or value.dtype == torch.float32 for value in found)

    def test_works_in_float64(self, spec: dict[str, Any]) -> None:
        head = build(spec).eval().double()
        output = head([f.double() for f in features()])
        answer = head.infer(output)
        assert output.xy.dtype == answer.keypoints.dtype == torch.float64
        single = build(spec).eval()
        torch.testing.assert_close(output.xy.float(), single(features()).xy, atol=1e-4, rtol=0)

    def test_absent_points_touch_nothing(self, spec: dict[str, Any]) -> None:
        head = build(spec).eval()
        target, weight = torch.rand(2, 5, 2), torch.ones(2, 5)
        weight[0, 1] = weight[1, 4] = 0
        values, gradients = [], []
        for junk in (0.0, torch.nan, torch.inf):
            target[weight == 0] = junk
            head.zero_grad()
            value = total(head.loss(head(features()), target, weight))
            value.backward()
            values.append(value.detach())
            gradients.append([p.grad.clone() for p in head.parameters() if p.grad is not None])
        assert values[0].isfinite()
        assert values[0] != 0
        for value, gradient in zip(values[1:], gradients[1:], strict=True):
            assert torch.equal(value, values[0])
            assert all(torch.equal(a, b) for a, b in zip(gradient, gradients[0], strict=True))

    def test_nothing_visible_is_zero_with_zero_gradients(self, spec: dict[str, Any]) -> None:
        head = build(spec)
        terms = head.loss(head(features()), torch.full((2, 5, 2), torch.nan), torch.zeros(2, 5))
        value = total(terms)
        value.backward()
        assert value.item() == 0
        assert all(p.grad is not None and (p.grad == 0).all() for p in head.parameters())

    def test_terms_are_those_of_the_config_already_weighted(self, spec: dict[str, Any]) -> None:
        if spec["name"] == "multi":
            return  # its heads' own
        head = build(spec).eval()
        output, target, weight = head(features()), torch.rand(2, 5, 2), torch.ones(2, 5)
        terms = head.loss(output, target, weight)
        assert list(terms) == [name for name, w in head.loss_weights.items() if w]
        doubled = build({**spec, "loss": {name: 2 * w for name, w in head.loss_weights.items()}}).eval()
        for name, value in doubled.loss(output, target, weight).items():
            torch.testing.assert_close(value, 2 * terms[name])

    def test_learns_one_batch(self, spec: dict[str, Any]) -> None:
        head = build({**spec, "dropout": 0.0} if "dropout" in spec else spec)
        target, weight = torch.rand(2, 5, 2) * 1.2 - 0.6, torch.ones(2, 5)
        optimizer = torch.optim.Adam(head.parameters(), 0.01)
        history = []
        for _ in range(25):
            optimizer.zero_grad()
            value = total(head.loss(head(features()), target, weight))
            value.backward()
            optimizer.step()
            history.append(value.item())
        assert history[-1] < history[0] - 0.1 * abs(history[0])

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"loss": {"l2": 1.0}}, r'unknown loss "l2" for head "{}" \(did you mean "l1"\?\); there are: '),
            ({"loss": {"smoothl1": 1.0}}, r'unknown loss "smoothl1" for head "{}" \(did you mean "smooth_l1"\?\)'),
            ({"loss": {"l1": -1.0}}, 'head "{}": loss l1: expected a finite weight of at least 0, found -1.0'),
            ({"loss": {"l1": math.nan}}, 'head "{}": loss l1: .*found nan'),
            ({"loss": {"l1": math.inf}}, 'head "{}": loss l1: .*found inf'),
            ({"loss": {"l1": 0, "mse": 0}}, 'head "{}": loss: expected at least one weight above 0'),
            ({"loss": {}}, 'head "{}": loss: expected at least one weight above 0'),
            ({"loss": "l1"}, "head \"{}\": loss: Input should be a valid dictionary, found 'l1'"),
            ({"loss": {"l1": "much"}}, 'head "{}": loss.l1: '),
            ({"los": {"l1": 1}}, r'head "{}": unknown key "los" \(did you mean "loss"\?\); known here: '),
            ({"num_keypoints": 3}, 'head "{}": unknown key "num_keypoints"'),
        ],
    )
    def test_bad_options(self, spec: dict[str, Any], option: dict[str, Any], message: str) -> None:
        if spec["name"] == "multi":
            return
        with pytest.raises(KpnetError, match=message.format(spec["name"])) as caught:
            build({**spec, **option})
        assert "\n" not in str(caught.value)


def test_list_heads() -> None:
    assert {"heatmap", "regression"} <= set(list_heads())
    with pytest.raises(
        KpnetError, match=r'unknown head "heatmaps" \(did you mean "heatmap"\?\); there are: gaussian_nll, heatmap, '
    ):
        build("heatmaps")


# Regression


def test_regression_initialisation() -> None:
    """Kaiming normal before a ReLU, Xavier normal before the tanh, as the course has it."""
    head = build({"name": "regression", "hidden": [400, 300]}, 100)
    linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(6 * 3 * 4, 400), (400, 300), (300, 200)]
    for m in linear[:2]:
        assert m.weight.std().item() == pytest.approx(math.sqrt(2 / m.in_features), rel=0.02)
    assert linear[2].weight.std().item() == pytest.approx(math.sqrt(2 / (300 + 200)), rel=0.02)


def test_regression_is_the_courses_network() -> None:
    head = build("regression", 15).eval()
    first, last = (m for m in head.modules() if isinstance(m, nn.Linear))
    x = features()[-1]
    course = torch.tanh(last(F.relu(first(x.flatten(1)))))
    assert first.out_features == 256
    assert torch.equal(head(features()).xy, course.view(-1, 15, 2))
    assert list(head.loss(head(features()), torch.zeros(2, 15, 2), torch.ones(2, 15))) == ["mse"]


def test_regression_dropout_is_off_in_eval() -> None:
    head = build({"name": "regression", "dropout": 0.5})
    assert not torch.equal(head(features()).xy, head(features()).xy)
    head.eval()
    assert torch.equal(head(features()).xy, head(features()).xy)


def test_flatten_is_bound_to_its_size_and_avg_is_not() -> None:
    other = features(size=(64, 64))
    with pytest.raises(
        KpnetError, match="built for feature maps of 3x4, got 4x4: use the configured input_size, or pool: avg"
    ):
        build("regression")(other)
    head = build({"name": "regression", "pool": "avg"}).eval()
    assert head(other).xy.shape == (2, 5, 2)
    constant = [torch.ones(1, c, h, h) for c, h in zip(CHANNELS, (16, 8, 4), strict=True)]
    wider = [torch.ones(1, c, h, 3 * h) for c, h in zip(CHANNELS, (16, 8, 4), strict=True)]
    torch.testing.assert_close(head(constant).xy, head(wider).xy)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pool": "max"}, "pool: Input should be 'flatten' or 'avg', found 'max'"),
        ({"activation": "relu"}, "activation: Input should be 'tanh' or 'none', found 'relu'"),
        ({"hidden": [0]}, "hidden.0: Input should be greater than 0, found 0"),
        ({"hidden": 256}, "hidden: Input should be a valid list, found 256"),
        ({"dropout": 1.0}, "dropout: Input should be less than 1, found 1.0"),
        ({"loss": {"cross_entropy": 1.0}}, 'unknown loss "cross_entropy" for head "regression"'),
    ],
)
def test_bad_regression_options(option: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        build({"name": "regression", **option})


# Heatmap


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
    answer = head.infer(HeatmapOutput(xy[None], logits))
    assert answer.confidence is not None
    assert answer.covariance is not None
    assert answer.confidence[0].tolist() == pytest.approx([1, 0], abs=1e-5)
    spread = (4 * 2 / 16) ** 2  # 4 cells of 16, normalised
    assert answer.covariance[0, 1].flatten().tolist() == pytest.approx([spread, 0, 0, 0], abs=1e-5)


def test_heatmap_multiple_is_its_decoders() -> None:
    for stride, multiple in ((2, 4), (4, 4), (8, 8), (16, 16)):
        for decoder in DECODERS:
            head = build({"name": "heatmap", "decoder": decoder, "stride": stride})
            assert isinstance(head, HeatmapHead)
            assert head.multiple == multiple
            sizes = (5 * multiple, 3 * multiple)
            maps = [
                torch.rand(1, c, -(-sizes[0] // s), -(-sizes[1] // s)) for c, s in zip(CHANNELS, STRIDES, strict=True)
            ]
            assert head.eval()(maps).logits.shape[-2:] == (sizes[0] // stride, sizes[1] // stride)


def test_heatmap_answers_in_float32_under_autocast() -> None:
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
        ({"stride": 3}, "cannot be brought to stride 3"),
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


def test_the_known_losses_have_a_test_each() -> None:
    """A loss added to the tables is to be added to `VARIANTS` too."""
    built = [build(s) for s in [*specs(), *VARIANTS] if s["name"] == "heatmap"]
    tried = {name for head in built for name in head.loss_weights}
    assert tried == {*losses.COORDINATE_LOSSES, *losses.SOFTMAX_LOSSES, *losses.MAP_LOSSES}


def test_regression_answers_in_float32_under_autocast() -> None:
    """bfloat16 has eight bits: on a 96 px image its rounding alone is a fifth of a pixel."""
    torch.manual_seed(0)
    head = HEADS.build("regression", Pyramid([8], [32], [(3, 3)]), 15)
    features = [torch.randn(4, 8, 3, 3)]
    expected = head(features).xy
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(features).xy
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


# Several heads, votes, densities


def test_the_answer_of_several_heads() -> None:
    heads = {"coarse": "laplace_nll", "fine": {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}}}
    for answer in ("coarse", "fine", None):
        head = build({"name": "multi", "heads": heads, "answer": answer}).eval()
        assert isinstance(head, MultiHead)
        output = head(features())
        assert isinstance(output, MultiOutput)
        own = output.parts[answer or "fine"]
        assert torch.equal(output.xy, own.xy)
        expected = head.heads[answer or "fine"].infer(own)
        torch.testing.assert_close(head.infer(output).covariance, expected.covariance)


def test_fused_is_the_mean_by_inverse_variance() -> None:
    spec = {"name": "multi", "heads": {"a": "laplace_nll", "b": "gaussian_nll"}, "answer": "fused"}
    head = build(spec).eval()
    assert isinstance(head, MultiHead)
    output = head(features())
    assert isinstance(output, MultiOutput)
    a, b = (head.heads[name].infer(output.parts[name]) for name in "ab")
    va, vb = (torch.diagonal(x.covariance, dim1=-2, dim2=-1).sum(-1)[..., None] for x in (a, b))
    torch.testing.assert_close(output.xy, (a.keypoints * vb + b.keypoints * va) / (va + vb))
    assert torch.equal(head.infer(output).keypoints, output.xy)
    bare = {**spec, "heads": {"a": "regression", "b": "gaussian_nll"}}
    with pytest.raises(KpnetError, match='fused needs a variance from every head, and "a" has none'):
        build(bare)


def test_the_loss_of_several_heads_is_weighted() -> None:
    heads = {"a": "regression", "b": "rle"}
    plain = build({"name": "multi", "heads": heads})
    half = build({"name": "multi", "heads": heads, "weights": {"b": 0.5}})
    half.load_state_dict(plain.state_dict())
    target, weight = torch.rand(2, 5, 2), torch.ones(2, 5)
    first, second = (head.loss(head(features()), target, weight) for head in (plain, half))
    assert list(first) == list(second) == ["a.mse", "b.nll"]
    torch.testing.assert_close(second["b.nll"], first["b.nll"] / 2)
    torch.testing.assert_close(second["a.mse"], first["a.mse"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": {}}, "heads: expected at least one"),
        ({}, '"heads" is missing'),
        ({"heads": {"a": "regresion"}}, 'unknown head "regresion"'),
        ({"heads": {"a": "rle"}, "answer": "b"}, 'there is no head "b".*there are: a'),
        ({"heads": {"a": "rle"}, "weights": {"b": 1}}, 'there is no head "b"'),
        ({"heads": {"a": "rle"}, "weights": {"a": 0}}, "weights.a: Input should be greater than 0"),
        ({"heads": {"fused": "rle"}}, '"fused" cannot be a name'),
        ({"heads": {"a.b": "rle"}}, r'"a\.b" cannot be a name'),
    ],
)
def test_bad_options_of_several_heads(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        build({"name": "multi", **options})


def test_votes_are_the_cells_own_centres_at_first_and_normalised() -> None:
    head = build({"name": "offset", "stride": 4}, 1).eval()
    output = head(features())
    assert isinstance(output, OffsetOutput)
    assert output.votes.shape == (2, 1, 12, 16, 2)
    assert output.votes[0, 0, 3, 5].tolist() == pytest.approx([(2 * 5 + 1) / 16 - 1, (2 * 3 + 1) / 12 - 1])
    best = output.logits.flatten(2).argmax(-1)
    argmax = build({"name": "offset", "stride": 4, "decoding": "argmax"}, 1).eval()
    argmax.load_state_dict(head.state_dict())
    expected = output.votes.flatten(2, 3)[torch.arange(2), 0, best[:, 0]]
    torch.testing.assert_close(argmax.infer(argmax(features())).keypoints[:, 0], expected)


def test_only_votes_near_the_target_are_trained() -> None:
    votes = torch.zeros(1, 1, 6, 8, 2, requires_grad=True)
    target, weight = torch.tensor([[[0.0, 0.0]]]), torch.ones(1, 1)  # between cells 3 and 4, 2 and 3
    value = vote_error(votes + 0.1, target, weight, 1.0, losses.mean_over_visible)
    value.backward()
    assert value.item() == pytest.approx(0.1)
    assert votes.grad is not None
    assert votes.grad.abs().sum(-1)[0, 0].nonzero().tolist() == [[2, 3], [2, 4], [3, 3], [3, 4]]
    assert torch.autograd.gradcheck(
        lambda v: vote_error(v, target.double(), weight.double(), 1.6, losses.mean_over_visible),
        torch.randn(1, 1, 6, 8, 2, dtype=torch.float64, requires_grad=True),
    )
    far = vote_error(votes, target + 9, weight, 1.0, losses.mean_over_visible)
    assert far.item() == 0  # no cell of the map is near


def test_simcc_bins_are_half_pixels_that_cover_the_image() -> None:
    head = build({"name": "simcc", "bins": 2, "loss": {"kl": 1.0}}).eval()
    output = head(features())
    assert isinstance(output, SimCCOutput)
    assert (output.x_logits.shape[-1], output.y_logits.shape[-1]) == (128, 96)
    # Logits that are the label's logarithm cost nothing and give the point back.
    target, weight = torch.tensor([[[0.31, -0.42]]]), torch.ones(1, 1)
    x = -0.5 * ((torch.arange(128) - ((1.31) * 128 - 1) / 2) / 3.0) ** 2
    y = -0.5 * ((torch.arange(96) - ((0.58) * 96 - 1) / 2) / 3.0) ** 2
    exact = SimCCOutput(target, x[None, None], y[None, None])
    assert head.loss(exact, target, weight)["kl"].item() == pytest.approx(0, abs=1e-6)
    variance = head.infer(exact).covariance
    assert variance is not None
    assert variance[0, 0].diagonal().tolist() == pytest.approx([(3 * 2 / 128) ** 2, (3 * 2 / 96) ** 2], rel=1e-3)
    with pytest.raises(KpnetError, match="the simcc head was built for maps of 12x16, got 16x16"):
        head(features(size=(64, 64)))


def test_simcc_begins_with_the_place_on_the_map() -> None:
    head = build({"name": "simcc", "stride": 4}, 1).eval()
    assert isinstance(head, SimCCHead)
    maps = torch.zeros(1, 12, 16)
    maps[0, 3, 9] = 40
    x, y = head.to_x(maps.flatten(1)), head.to_y(maps.flatten(1))
    # Cell 9 is the pixels 36 to 39, the bins 72 to 79; its centre is between bins 75 and 76.
    assert set(x[0].topk(2).indices.tolist()) == {75, 76}
    assert set(y[0].topk(2).indices.tolist()) == {27, 28}


def test_the_flow_is_a_density() -> None:
    torch.manual_seed(0)
    flow = ResidualFlow()
    at = torch.linspace(-12, 12, 481)
    grid = torch.cartesian_prod(at, at)
    start = flow.log_density(grid)
    torch.testing.assert_close(start, -0.5 * grid.square().sum(-1) - math.log(2 * math.pi))
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        total_mass = flow.log_density(grid).exp().sum() * (at[1] - at[0]) ** 2
    assert total_mass.item() == pytest.approx(1, abs=0.01)


def test_rle_learns_the_scale_of_the_errors() -> None:
    """Targets spread about their mean with known deviations: so wide must the predicted ones become."""
    torch.manual_seed(0)
    head = build({"name": "rle", "pool": "avg", "hidden": []}, 2)
    maps = [torch.ones(256, c, 2, 2) for c in CHANNELS]
    spread = torch.tensor([0.02, 0.1])
    optimizer = torch.optim.Adam(head.parameters(), 0.005)
    for _ in range(300):
        target = torch.randn(256, 2, 2) * spread[:, None]
        optimizer.zero_grad()
        total(head.loss(head(maps), target, torch.ones(256, 2))).backward()
        optimizer.step()
    covariance = head.infer(head(maps)).covariance
    assert covariance is not None
    deviation = covariance[0].diagonal(dim1=-2, dim2=-1).mean(-1).sqrt()
    torch.testing.assert_close(deviation, spread, rtol=0.2, atol=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "rle", "loss": {"l1": 1.0}}, 'head "rle": loss: nothing trains the scale of the errors: add nll'),
        ({"name": "gaussian_nll", "loss": {"l1": 1.0, "nll": 0}}, "nothing trains the scale"),
        ({"name": "offset", "loss": {"cross_entropy": 1.0}}, "terms that train the map.*and the votes.*found cross_e"),
        ({"name": "offset", "loss": {"offset": 1.0, "variance": 1.0}}, "terms that train the map.*found offset, var"),
    ],
)
def test_losses_that_leave_a_part_untrained_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        build(spec)
