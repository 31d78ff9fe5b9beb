"""The contract of every head, with every decoder."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.every_head import EVERY, label
from support.small_heads import build, features, total

from kpnet import losses
from kpnet.core.errors import KpnetError
from kpnet.heads import list_heads


def bounded(spec: dict[str, Any]) -> bool:
    return spec["name"] in ("heatmap", "simcc") or (spec["name"] == "regression" and spec.get("activation") != "none")


# The terms and the options of several heads are their own: test_multi.py.
every_single_head = pytest.mark.parametrize("spec", [s for s in EVERY if s["name"] != "multi"], ids=label)
every_bounded_head = pytest.mark.parametrize("spec", [s for s in EVERY if bounded(s)], ids=label)


@pytest.fixture(params=EVERY, ids=label)
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


class TestEveryHead:
    @pytest.mark.parametrize("keypoints", [1, 5])
    @pytest.mark.parametrize("batch", [0, 1, 3])
    def test_shapes(self, spec: dict[str, Any], keypoints: int, batch: int) -> None:
        head = build(spec, keypoints).eval()
        output = head(features(batch))
        assert output.xy.shape == (batch, keypoints, 2)
        prediction = head.infer(output)
        assert prediction.keypoints.shape == (batch, keypoints, 2)
        assert (prediction.confidence is None) == (prediction.covariance is None)
        if prediction.confidence is not None and prediction.covariance is not None:
            assert prediction.confidence.shape == (batch, keypoints)
            assert prediction.covariance.shape == (batch, keypoints, 2, 2)
            assert ((prediction.confidence >= 0) & (prediction.confidence <= 1)).all()
            assert (torch.linalg.eigvalsh(prediction.covariance) > 0).all()
        if prediction.heatmaps is not None:
            assert prediction.heatmaps.shape[:2] == (batch, keypoints)
            torch.testing.assert_close(prediction.heatmaps.sum((-2, -1)), torch.ones(batch, keypoints))

    @every_bounded_head
    def test_predictions_lie_on_the_image(self, spec: dict[str, Any]) -> None:
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

    def test_the_prediction_is_differentiable(self, spec: dict[str, Any]) -> None:
        maps = [f.requires_grad_() for f in features()]
        build(spec).eval()(maps).xy.sum().backward()
        assert maps[-1].grad is not None
        assert maps[-1].grad.abs().sum() > 0

    def test_predictions_are_float32_under_autocast(self, spec: dict[str, Any]) -> None:
        head = build(spec).eval()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = head(features())
            terms = head.loss(output, torch.zeros(2, 5, 2), torch.ones(2, 5))
            prediction = head.infer(output)
        found = [output.xy, *terms.values(), prediction.keypoints, prediction.confidence, prediction.covariance]
        assert all(value is None or value.dtype == torch.float32 for value in found)

    def test_works_in_float64(self, spec: dict[str, Any]) -> None:
        head = build(spec).eval().double()
        output = head([f.double() for f in features()])
        prediction = head.infer(output)
        assert output.xy.dtype == prediction.keypoints.dtype == torch.float64
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

    @every_single_head
    def test_terms_are_those_of_the_config_already_weighted(self, spec: dict[str, Any]) -> None:
        head = build(spec).eval()
        output, target, weight = head(features()), torch.rand(2, 5, 2), torch.ones(2, 5)
        terms = head.loss(output, target, weight)
        own = [name for name in terms if not name.startswith("frame.")]  # a temporal head has its inner one's too
        assert own == [name for name, w in head.loss_weights.items() if w]
        doubled = build({**spec, "loss": {name: 2 * w for name, w in head.loss_weights.items()}}).eval()
        for name, value in doubled.loss(output, target, weight).items():
            if name not in own:
                continue
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
            ({"loss": {"l1": math.nan}}, 'head "{}": loss.l1: .*found nan'),
            ({"loss": {"l1": math.inf}}, 'head "{}": loss.l1: .*found inf'),
            ({"loss": {"l1": 0, "mse": 0}}, 'head "{}": loss: expected at least one weight above 0'),
            ({"loss": {}}, 'head "{}": loss: expected at least one weight above 0'),
            ({"loss": "l1"}, "head \"{}\": loss: Input should be a valid dictionary, found 'l1'"),
            ({"loss": {"l1": "much"}}, 'head "{}": loss.l1: '),
            ({"los": {"l1": 1}}, r'head "{}": unknown key "los" \(did you mean "loss"\?\); known here: '),
            ({"num_keypoints": 3}, 'head "{}": unknown key "num_keypoints"'),
        ],
    )
    @every_single_head
    def test_bad_options(self, spec: dict[str, Any], option: dict[str, Any], message: str) -> None:
        with pytest.raises(KpnetError, match=message.format(spec["name"])) as caught:
            build({**spec, **option})
        assert "\n" not in str(caught.value)


def test_list_heads() -> None:
    assert {"heatmap", "regression"} <= set(list_heads())
    with pytest.raises(
        KpnetError,
        match=r'unknown head "heatmaps" \(did you mean "heatmap"\?\); there are: centers, gaussian_nll, heatmap, ',
    ):
        build("heatmaps")


def test_the_known_losses_have_a_test_each() -> None:
    """A loss added to the tables is to be added to `VARIANTS` too."""
    built = [build(s) for s in EVERY if s["name"] == "heatmap"]
    tried = {name for head in built for name in head.loss_weights}
    assert tried == {*losses.COORDINATE_LOSSES, *losses.SOFTMAX_LOSSES, *losses.MAP_LOSSES}


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
