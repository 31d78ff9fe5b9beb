"""KeypointModel: building, the form of its output, freezing."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.course import evaluate_model
from support.recipes import SANDWICH, TRAINED, small
from support.shapes import shapes_config, write_shapes
from torch import Tensor
from torch.utils.data import default_collate

import kpnet
from kpnet import KpnetError, build_model, load_model
from kpnet.config.loading import load_config
from kpnet.core.errors import NotFiniteError
from kpnet.data.build import build_splits, with_scenes
from kpnet.heads.heatmap import HeatmapOutput

# Building


def test_by_keywords_as_the_design_shows() -> None:
    model = build_model(backbone="resnet18", head="heatmap", num_keypoints=15, in_channels=1, input_size=96)
    images = torch.rand(2, 1, 96, 96)
    xy = model(images)
    assert xy.shape == (2, 15, 2)
    assert xy.abs().max() <= 1
    xy.square().sum().backward()
    gradient = next(model.backbone.parameters()).grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert model.config.pretrained is False
    assert len(list(model.head.parameters())) > 0


def test_from_mapping_file_and_typed_config_alike(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    typed = kpnet.load_config(path)
    image = torch.rand(1, 1, 32, 32)
    names = tiny["data"]["skeleton"]
    bare = {**tiny["model"], "num_keypoints": 3}
    whole = [(source, None) for source in (path, str(path), tiny, typed)]
    predictions = []
    for source, skeleton in [*whole, (bare, names), (typed.model, names)]:
        torch.manual_seed(0)
        model = build_model(source, skeleton=skeleton)
        predictions.append(model.eval()(image))
        assert model.skeleton.names == tuple(names)
    assert build_model(bare).skeleton.names == ("0", "1", "2")
    assert all(torch.equal(predictions[0], prediction) for prediction in predictions)


def test_keywords_override_a_config(tiny: dict[str, Any]) -> None:
    before = yaml.safe_dump(tiny)
    model = build_model(tiny, in_channels=3, input_size=(64, 48), head={"name": "regression", "hidden": [4]})
    assert model(torch.rand(1, 3, 64, 48)).shape == (1, 3, 2)
    assert model.skeleton.names == ("left_eye", "right_eye", "nose")
    assert yaml.safe_dump(tiny) == before


@pytest.mark.parametrize("name", TRAINED)
def test_every_shipped_recipe_builds(name: str) -> None:
    model = build_model(name, pretrained=False)  # there is no network
    points = 13 if name.startswith("flies") else 15
    assert model(torch.rand(2, 1, 96, 96)).shape == (2, points, 2)


@pytest.mark.parametrize("size", [(32, 64), (96, 64)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize(
    "head",
    [
        {"name": "regression", "pool": "flatten"},
        {"name": "regression", "pool": "avg", "activation": "none"},
        {"name": "heatmap", "decoder": "top_down", "stride": 4},
        {"name": "heatmap", "decoder": "deconv", "stride": 2},
    ],
    ids=lambda h: f"{h['name']}-{h.get('pool', h.get('decoder'))}",
)
@pytest.mark.parametrize(
    ("backbone", "points", "channels"),
    [(SANDWICH, 1, 1), ("resnet18", 7, 3), ("torchvision/squeezenet1_0", 2, 1), ("mobilenetv3_small_050", 68, 4)],
    ids=["conv_sandwich", "resnet18", "squeezenet", "mobilenetv3"],
)
def test_any_backbone_in_any_head(backbone: Any, points: int, channels: int, head: dict[str, Any], size: Any) -> None:
    model = build_model(backbone=backbone, head=head, num_keypoints=points, in_channels=channels, input_size=size)
    images = torch.rand(2, channels, *size)
    xy = model(images)
    assert xy.shape == (2, points, 2)
    assert xy.isfinite().all()
    xy.sum().backward()
    assert all(p.grad is not None for p in model.parameters()), "an unused parameter stops DDP"


@pytest.mark.parametrize("backbone", ["torchvision/squeezenet1_1", "torchvision/vgg11", "vgg11"])
def test_maps_of_a_network_without_norms_are_standardised(backbone: str) -> None:
    """Those of an ImageNet SqueezeNet reach 4000, and no head trains on that. Each image's by itself."""
    model = build_model(backbone=backbone, head="heatmap", num_keypoints=3, input_size=(64, 96))
    images = torch.rand(3, 3, 64, 96)
    raw, maps = model.backbone((images - model.mean) / model.std), model.features(images)
    for before, after in zip(raw, maps, strict=True):
        for one, standard in zip(before, after, strict=True):
            assert torch.allclose(standard * (one.var(correction=0) + 1e-5).sqrt() + one.mean(), one, atol=1e-5)
            assert standard.mean().abs() < 1e-3
    assert torch.allclose(model.eval().features(images[1:2])[0], maps[0][1:2], atol=1e-4)


def test_maps_of_a_network_with_norms_stay_as_they_are() -> None:
    model = build_model(backbone="resnet18", head="heatmap", num_keypoints=3, input_size=64)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.features(images)[0], model.backbone((images - model.mean) / model.std)[0])


def test_points_follow_the_image_axes() -> None:
    """A bright column in a wide map moves x alone: H and W are not swapped anywhere."""
    model = small(input_size=(32, 64), head={"name": "heatmap", "stride": 2})
    output = model.output(torch.rand(1, 1, 32, 64))
    assert isinstance(output, HeatmapOutput)
    assert output.logits is not None
    assert output.logits.shape == (1, 3, 16, 32)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"backbone": "resnet81"}, ["resnet81", "resnet18"]),
        ({"head": "heatmop"}, ["heatmop", "heatmap"]),
        ({"num_keypoint": 3}, ["num_keypoint", "num_keypoints"]),
        ({"num_keypoints": None}, ["num_keypoints"]),
        ({"num_keypoints": 0}, ["num_keypoints", "0"]),
        ({"input_size": (33, 32)}, ["33x32", "input_size", "32"]),
        ({"in_channels": 0}, ["in_channels", "0"]),
        ({"skeleton": ["a", "b"]}, ["3", "2"]),
        ({"mean": [0.1, 0.2]}, ["mean", "2"]),
    ],
)
def test_bad_arguments(changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(KpnetError) as caught:
        small(**changes)
    message = str(caught.value)
    assert all(word in message for word in expected), message
    assert "\n" not in message


# Input


@pytest.mark.parametrize("head", ["heatmap", "regression"])
def test_a_single_image_is_a_batch_of_one(head: str) -> None:
    model = small(head=head).eval()
    image = torch.rand(1, 32, 32)
    assert torch.equal(model(image), model(image[None]))
    assert model.infer(image).keypoints.shape == (1, 3, 2)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (3, 32, 32), (32, 32), (1, 1, 1, 32, 32), (1, 1, 31, 32)])
def test_wrong_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(KpnetError) as caught:
        small()(torch.rand(shape))
    message = str(caught.value)
    assert "(B, 1, H, W)" in message or ("31x32" in message and "multiples" in message), message


def test_other_sizes_where_the_head_allows_it() -> None:
    images = torch.rand(1, 1, 48, 64)
    assert small()(images).shape == (1, 3, 2)
    with pytest.raises(KpnetError, match="input_size"):
        small(head="regression")(images)


def test_the_model_normalises() -> None:
    """Mean and std of the config act on the image and nowhere else."""
    plain, moved = small(mean=[0.0], std=[1.0]).eval(), small(mean=[0.25], std=[2.0]).eval()
    image = torch.rand(1, 1, 32, 32)
    assert torch.allclose(moved(image), plain((image - 0.25) / 2), atol=1e-6)
    assert not torch.allclose(moved(image), plain(image), atol=1e-4)


# infer


def test_infer_heatmap() -> None:
    model = small(input_size=(32, 48)).eval()
    images = torch.rand(4, 1, 32, 48)
    prediction = model.infer(images)
    assert prediction.keypoints.shape == (4, 3, 2)
    assert torch.equal(prediction.keypoints, model(images))
    assert prediction.confidence is not None
    assert prediction.confidence.shape == (4, 3)
    assert ((prediction.confidence >= 0) & (prediction.confidence <= 1)).all()
    assert prediction.heatmaps is not None
    assert prediction.heatmaps.shape == (4, 3, 8, 12)
    assert torch.allclose(prediction.heatmaps.sum((-2, -1)), torch.ones(4, 3), atol=1e-5)
    assert prediction.covariance is not None
    assert prediction.covariance.shape == (4, 3, 2, 2)
    # The moments of the maps, summed cell by cell.
    y, x = torch.meshgrid((2 * torch.arange(8) + 1) / 8 - 1, (2 * torch.arange(12) + 1) / 12 - 1, indexing="ij")
    for b in range(4):
        for k in range(3):
            p = prediction.heatmaps[b, k]
            mean = torch.stack([(p * x).sum(), (p * y).sum()])
            assert torch.allclose(prediction.keypoints[b, k], mean, atol=1e-5)
            d = torch.stack([x, y]) - mean[:, None, None]
            assert torch.allclose(prediction.covariance[b, k], torch.einsum("hw,ihw,jhw->ij", p, d, d), atol=1e-5)


def test_infer_regression_has_points_alone() -> None:
    prediction = small(head="regression").infer(torch.rand(2, 1, 32, 32))
    assert prediction.keypoints.shape == (2, 3, 2)
    assert prediction.confidence is prediction.covariance is prediction.heatmaps is None


@pytest.mark.parametrize("training", [True, False])
def test_infer_leaves_mode_and_statistics(training: bool) -> None:
    model = small(backbone={**SANDWICH, "norm": "batch", "dropout": 0.5}).train(training)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.rand(4, 1, 32, 32, requires_grad=True)
    first, second = model.infer(images).keypoints, model.infer(images).keypoints
    assert torch.equal(first, second), "dropout is off"
    assert not first.requires_grad
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_infer_restores_the_mode_after_an_error() -> None:
    model = small().train()
    with pytest.raises(KpnetError):
        model.infer(torch.rand(1, 2, 32, 32))
    assert model.training


@pytest.mark.parametrize("head", ["heatmap", "regression"])
def test_infer_is_exported_compiled_and_traced(head: str) -> None:
    """Without a break of the graph; as it is, it still raises an error where a prediction is not finite."""

    class Infer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = small(head=head, backbone={**SANDWICH, "norm": "batch"}).eval()

        def forward(self, images: Tensor) -> Tensor:
            return self.model.infer(images).keypoints

    network, images = Infer().eval(), torch.rand(3, 1, 32, 32)
    expected = network(images)
    for other in (
        torch.export.export(network, (images,)).module(),
        torch.compile(network, fullgraph=True, backend="eager"),
        torch.jit.trace(network, (images,), check_trace=False),
    ):
        torch.testing.assert_close(other(images), expected, atol=1e-5, rtol=0)
    images[1, 0, 3, 4] = torch.nan
    with pytest.raises(NotFiniteError, match="image 1 of the batch is not finite"):
        network.model.infer(images)


# Freezing


def test_frozen_backbone_stays_frozen_through_train() -> None:
    model = small(backbone={**SANDWICH, "norm": "batch", "dropout": 0.5})
    images = torch.rand(4, 1, 32, 32)
    moving, other = model.features(images), model.features(images)
    assert not torch.equal(moving[-1], other[-1]), "dropout is on before the freeze"
    model.freeze_backbone()
    for _ in range(2):
        model.train()
        assert not any(module.training for module in model.backbone.modules())
        assert model.head.training
        before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
        first, second = model.features(images), model.features(images)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        model(images).sum().backward()
        assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
        assert all(p.grad is not None for p in model.head.parameters())
        model.infer(images)  # goes through eval and back

    model.unfreeze_backbone()
    assert all(p.requires_grad for p in model.backbone.parameters())
    assert all(module.training for module in model.modules())
    statistics = {k: v.clone() for k, v in model.backbone.named_buffers()}
    model(images).sum().backward()
    assert any(not torch.equal(v, statistics[k]) for k, v in model.backbone.named_buffers())
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_unfreezing_in_eval_mode_stays_in_eval_mode() -> None:
    model = small().eval()
    model.freeze_backbone()
    model.unfreeze_backbone()
    assert not any(module.training for module in model.modules())


# The course


def squared_error(model: kpnet.KeypointModel, images: Tensor, truth: Tensor) -> float:
    return float((model.infer(images).keypoints.double() - truth.double()).square().mean())


@pytest.mark.parametrize("head", ["heatmap", "regression"])
def test_the_course_loop_on_synthetic_faces(head: str) -> None:
    dataset = kpnet.data.SyntheticFaces(4, seed=0)
    model = build_model(backbone=SANDWICH, head=head, num_keypoints=15, in_channels=1, input_size=96)
    items = [dataset[i] for i in range(4)]
    images, truth = (torch.stack([item[k] for item in items]) for k in ("image", "keypoints"))
    assert evaluate_model(model, dataset) == pytest.approx(1 / (2 * squared_error(model, images, truth)), rel=1e-4)


def test_the_course_loop_on_a_csv(faces15: Path) -> None:
    from kpnet.evaluation.measurement import evaluate

    dataset = kpnet.data.KaggleCSV(faces15 / "val.csv")
    model = build_model(backbone=SANDWICH, head="regression", num_keypoints=15, in_channels=1, input_size=96)
    assert evaluate_model(model, dataset) == pytest.approx(evaluate(model, dataset)["score"], rel=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("head", ["heatmap", "simcc", "offset", "rle", "regression"])
def test_a_prediction_that_is_not_finite_names_the_head(head: str, bad: float) -> None:
    model = build_model(backbone="conv_sandwich", head=head, num_keypoints=3, in_channels=1, input_size=32)
    images = torch.rand(3, 1, 32, 32)
    images[1, 0, 5, 5] = bad
    with pytest.raises(KpnetError, match=f'head "{head}": the prediction for image 1 of the batch is not finite'):
        model.infer(images)
    assert model.infer(images[[0, 2]]).keypoints.isfinite().all()


def test_several_heads_by_their_short_form() -> None:
    heads = {"coarse": "laplace_nll", "fine": {"name": "heatmap", "stride": 8}}
    model = build_model(backbone="conv_sandwich", heads=heads, num_keypoints=3, in_channels=1, input_size=32)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 3, 2)
    assert model.config.head == {"name": "multi", "heads": heads}
    # In place of a recipe's own head, but not beside one.
    assert build_model("facial_heatmap", heads=heads).config.head == model.config.head
    with pytest.raises(KpnetError, match="give either head or heads"):
        build_model(backbone="conv_sandwich", head="heatmap", heads=heads, num_keypoints=3)


# Inference leaves the model as it is


def trained_mode(**changes: Any) -> kpnet.KeypointModel:
    """A model in training mode whose batch norm has seen images."""
    model = small(backbone={**SANDWICH, "norm": "batch", "dropout": 0.3}, **changes)
    with torch.no_grad():
        model(torch.rand(4, 1, 32, 32))
    return model


def test_inference_in_training_mode_is_that_of_eval_mode_and_leaves_no_trace() -> None:
    model = trained_mode()
    images = torch.rand(2, 1, 32, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predicted = model.infer(images, kpnet.TestTime(shift=1.0))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(predicted.keypoints, model.eval().infer(images, kpnet.TestTime(shift=1.0)).keypoints)


def test_threads_may_share_a_model_that_is_being_trained() -> None:
    model = trained_mode()
    images = torch.rand(1, 1, 32, 32)
    expected = copy.deepcopy(model).eval().infer(images).keypoints
    wrong: list[str] = []

    def infer() -> None:
        for _ in range(20):
            same = torch.equal(model.infer(images).keypoints, expected)
            wrong.extend(["a prediction"] * (not same))

    threads = [threading.Thread(target=infer) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if not all(module.training for module in model.modules()):
            wrong.append("the mode")
            break
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("decoding", ["soft_argmax", "local", "dark", "blend", "quarter", "argmax"])
def test_forward_decodes_as_infer_in_eval_mode_and_is_differentiable_in_training(decoding: str) -> None:
    model = small(head={"name": "heatmap", "decoding": decoding})
    images = torch.rand(2, 1, 32, 32)
    assert model(images).requires_grad
    assert torch.equal(model.eval()(images), model.infer(images).keypoints)


# Forms of a model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.2), (torch.bfloat16, 1.0), (torch.float64, 1e-3)])
@pytest.mark.parametrize("head", ["heatmap", "rle", "simcc", {"name": "offset", "stride": 4}], ids=str)
def test_a_model_of_any_precision_takes_images_of_any(head: Any, dtype: torch.dtype, tolerance: float) -> None:
    model = small(head=head).eval()
    images = torch.rand(2, 1, 32, 32)
    expected = model.infer(images).keypoints
    other = copy.deepcopy(model).to(dtype)
    for given in (images, images.double(), images.to(dtype)):
        pixels = (other.infer(given).keypoints.float() - expected).abs().max() * 16
        assert pixels < tolerance


def test_the_state_dict_has_the_statistics_of_the_images() -> None:
    model, other = small(mean=[0.2], std=[0.1]), small()
    other.load_state_dict(model.state_dict())
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(model(images), other(images))


def test_compile_reaches_inference() -> None:
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = small().eval()
    images = torch.rand(2, 1, 32, 32)
    expected = model.infer(images).keypoints
    model.compile(backend=backend)
    assert torch.equal(model.infer(images).keypoints, expected)
    assert len(graphs) >= 2


class WithConfidence(torch.nn.Module):
    def __init__(self, model: kpnet.KeypointModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor | None, ...]:
        predicted = self.model.infer(images)
        return predicted.keypoints, predicted.confidence, predicted.covariance


@pytest.mark.parametrize("head", [{"name": "heatmap", "decoding": "dark"}, "rle"], ids=str)
def test_inference_is_exported_with_its_confidence(head: Any) -> None:
    model = WithConfidence(small(head=head)).eval()
    images = torch.rand(2, 1, 32, 32)
    exported = torch.export.export(model, (images,)).module()(images)
    for found, expected in zip(exported, model(images), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("head", ["heatmap", "regression", "rle", "simcc", "temporal"])
def test_a_quantised_model_predicts(head: str) -> None:
    model = small(head={"name": head, "hardest": 2}).eval()
    images = torch.rand(2, 1, 32, 32)
    layers = {torch.nn.Linear, torch.nn.LSTM}
    quantised = torch.ao.quantization.quantize_dynamic(model, layers, dtype=torch.qint8)
    torch.testing.assert_close(quantised.infer(images).keypoints, model.infer(images).keypoints, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("images", [None, "photo.jpg", [[1.0]]])
def test_other_things_than_tensors_are_refused(images: Any) -> None:
    for call in (small().infer, small()):
        with pytest.raises(KpnetError, match=r"expected a tensor of images .* use kpnet.Predictor"):
            call(images)


def test_images_on_another_device_are_refused() -> None:
    with pytest.raises(KpnetError, match="the images are on meta, the model is on cpu"):
        small()(torch.rand(1, 1, 32, 32, device="meta"))


# The loss


def own_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 1, 32, 32, generator=generator)
    return {"image": image, "keypoints": torch.rand(4, 3, 2, generator=generator) - 0.5}


@pytest.mark.parametrize(
    "head", ["heatmap", "rle", "temporal", {"name": "multi", "heads": {"a": "simcc", "b": "offset"}}], ids=str
)
def test_the_loss_is_the_sum_of_the_heads_terms_over_the_points_that_count(head: Any) -> None:
    """However a point is marked as absent: NaN, not visible, of weight 0."""
    model = build_model(
        backbone={"name": "conv_sandwich", "channels": [8, 16, 32]},
        head=head,
        num_keypoints=3,
        in_channels=1,
        input_size=32,
    ).eval()
    batch, visible = own_batch(), torch.ones(4, 3, dtype=torch.bool)
    visible[0, 1] = visible[2] = False
    output, weight = model.output(batch["image"]), visible.float()
    expected = sum(model.head.loss(output, batch["keypoints"], weight).values())
    absent = batch["keypoints"].where(visible[..., None], torch.nan)
    for marked in (
        {"visible": visible},
        {"weight": weight},
        {"keypoints": absent},
        {"visible": visible, "weight": weight},
    ):
        torch.testing.assert_close(model.loss({**batch, **marked}), expected)
    torch.testing.assert_close(model.loss({**batch, "visible": visible}, output), expected)


def test_the_loss_weighs_points_and_needs_a_batch_with_both() -> None:
    model = build_model(
        backbone="mlp", head={"name": "regression", "loss": {"l1": 1}}, num_keypoints=3, in_channels=1, input_size=32
    ).eval()
    batch = own_batch()
    errors = (model(batch["image"]) - batch["keypoints"]).abs().mean(-1)
    torch.testing.assert_close(model.loss(batch), errors.mean())
    weight = torch.tensor([0.5, 2.0, 0.0]).expand(4, 3)
    torch.testing.assert_close(model.loss({**batch, "weight": weight}), (errors * weight).sum() / 8)
    for missing in batch:
        with pytest.raises(KpnetError, match='"image" and "keypoints"'):
            model.loss({key: value for key, value in batch.items() if key != missing})


@pytest.mark.parametrize("way", ["two_stage", "single_stage"])
def test_the_terms_of_two_halves_of_scenes_are_those_of_the_whole(way: str, tmp_path: Path) -> None:
    config = load_config(shapes_config(write_shapes(tmp_path, [2, 0, 3, 1, 1, 2]), None, way))
    data = with_scenes(config, build_splits(config, (0, 0))[0], None, whole=way == "single_stage")[0]
    torch.manual_seed(0)
    model = build_model(config, num_keypoints=3).eval()
    items = [data[index] for index in range(6)]
    whole = model.loss_terms(default_collate(items))
    halves = [model.loss_terms(default_collate(part)) for part in (items[:2], items[2:])]
    counts = torch.stack([each.counts for each in halves])
    joined = (torch.stack([each.values for each in halves]) * counts).sum(0) / counts.sum(0).clamp(min=1)
    assert torch.allclose(joined, whole.values, rtol=1e-5)
    assert counts.sum(0).tolist() == whole.counts.tolist()
    assert any(name.startswith("find_") for name in whole.named) == (way == "two_stage")


def test_what_finds_no_instances_says_what_would() -> None:
    model = build_model(backbone="mlp", head="regression", num_keypoints=3, in_channels=1, input_size=16)
    with pytest.raises(KpnetError, match=r"one instance in each image: train with model\.instances=true"):
        model.find(torch.rand(1, 1, 16, 16))


def test_a_finder_is_saved_with_its_model_and_taken_by_the_next(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone, head = "conv_sandwich", "heatmap"
    options: dict[str, Any] = {"backbone": backbone, "head": head, "num_keypoints": 3, "in_channels": 1}
    options["instances"] = True
    model = build_model(**options)
    images = torch.rand(2, 1, 256, 256)
    model.save(tmp_path)
    for other in (load_model(tmp_path), build_model(**options, pretrained=str(tmp_path))):
        for found, expected in zip(other.find(images, 0.0), model.find(images, 0.0), strict=True):
            assert len(found.boxes)
            assert torch.equal(found.boxes, expected.boxes)
            assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("head", ["heatmap", "centers"])
def test_a_diverged_model_is_not_one_that_finds_nothing(head: str) -> None:
    found = True if head == "heatmap" else None
    model = build_model(backbone=SANDWICH, head=head, num_keypoints=3, in_channels=1, input_size=64, instances=found)
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    side = 256 if found else 64
    with pytest.raises(NotFiniteError, match='head "centers": the prediction for image 0 of the batch is not finite'):
        model.find(torch.rand(1, 1, side, side))
