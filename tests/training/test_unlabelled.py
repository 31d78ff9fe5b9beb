"""Learning from unlabelled images: the image is the oracle for pseudo-labels; weight 0 is the supervised training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import NAMES, SIDE, csv_lines, dot_image
from safetensors.torch import load_file
from support.console import Run
from support.two_ranks import TINY, train_on_two
from torch import Tensor
from torch.utils.data import default_collate

from kpnet.config.loading import load_config
from kpnet.config.unlabelled import UnlabelledTraining
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data.build import build_train
from kpnet.data.transforms.augment import Augment
from kpnet.data.transforms.device import DeviceAugment
from kpnet.data.unlabelled import UnlabelledImages
from kpnet.data.wrappers.views import TwoViews
from kpnet.heads import Keypoints
from kpnet.models.build import assemble
from kpnet.models.keypoint_model import KeypointModel
from kpnet.training import unlabelled
from kpnet.training.callbacks import RunFolderCallback
from kpnet.training.supervised import train
from kpnet.training.unlabelled import JUDGED, Teaching

SIZE = (48, 64)
SKELETON = Skeleton(("left", "right"), (("left", "right"),))
TRANSFORMS: list[Any] = [
    {"HorizontalFlip": {"p": 0.5}},
    {"Affine": {"rotate": [-30, 30], "scale": [0.8, 1.2], "translate_percent": [-0.1, 0.1], "p": 1}},
]


class Finder:
    """A teacher that finds the two dots of each image; `left` is the one further to the left, in any view."""

    training = False

    def __init__(self, confidence: float = 1.0, draws: torch.Generator | None = None) -> None:
        self.confidence, self.draws, self.head = confidence, draws, self

    def modules(self) -> list[Any]:
        return [self]

    def output(self, images: Tensor) -> Tensor:
        return images

    def infer(self, images: Tensor) -> Keypoints:
        xy = centroids(images)
        if self.draws is not None:
            xy = 2 * torch.rand(xy.shape, generator=self.draws) - 1
        return Keypoints(xy, torch.full(xy.shape[:2], self.confidence))


def centroids(images: Tensor) -> Tensor:
    """Normalised centroids (B, 2, 2) of the two dots, the one further to the left first."""
    height, width = images.shape[-2:]
    x = (2 * torch.arange(width) + 1) / width - 1
    y = (2 * torch.arange(height) + 1) / height - 1
    maps = images[:, :2]
    total = maps.sum((-2, -1))
    xy = torch.stack([(maps * x).sum((-2, -1)) / total, (maps * y[:, None]).sum((-2, -1)) / total], -1)
    order = xy[..., 0].argsort(-1)
    return xy.gather(1, order[..., None].expand(-1, -1, 2))


def dotted(count: int) -> np.ndarray:
    """RGB images of two dots, in red and in green, far from the border."""
    draws = np.random.default_rng(0)
    images = np.zeros((count, *SIZE, 3), np.uint8)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for image in images:
        for channel, (left, right) in enumerate(((20, 27), (37, 44))):
            px, py = draws.uniform(left, right), draws.uniform(18, 30)
            image[..., channel] = np.round(250 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 6))
    return images


def views(augment: Augment | None, count: int = 24) -> dict[str, Tensor]:
    images = UnlabelledImages(dotted(count), skeleton=SKELETON, image_size=SIZE, in_channels=3, seed=3)
    dataset = TwoViews(images, augment)
    return default_collate([dataset[i] for i in range(count)])


def teaching(**options: Any) -> Teaching:
    augment = options.pop("augment", None)
    return Teaching(UnlabelledTraining(**options), SKELETON, SIZE, augment)


@pytest.mark.parametrize("device", [False, True])
def test_pseudo_labels_move_and_swap_as_the_image_does(device: bool) -> None:
    """The dots in the student's image lie where its pseudo-labels are, `left` to the left in mirrored images too."""
    if device:
        learned, batch = teaching(augment=DeviceAugment(TRANSFORMS, SKELETON, SIZE)), views(None)
    else:
        learned, batch = teaching(), views(Augment(TRANSFORMS, SKELETON))
        assert 6 < int(batch["mirrored"].sum()) < 18
    teacher = cast("KeypointModel", Finder())
    taught = learned.label(teacher, batch, torch.Generator().manual_seed(0))
    assert taught["visible"].all()
    off = (taught["keypoints"] - centroids(taught["image"])) * torch.tensor([SIZE[1] / 2, SIZE[0] / 2])
    assert off.norm(dim=-1).max() < 0.1  # the dots are so far apart that no rotation by 30 degrees swaps them
    torch.testing.assert_close(taught["weight"], torch.ones(24, 2), atol=1e-4, rtol=0)
    assert not (taught["image"] == batch["plain"]).all()


def test_a_point_that_leaves_the_image_counts_nothing() -> None:
    batch = views(Augment([{"Affine": {"translate_percent": [0.55, 0.55], "p": 1}}], SKELETON))
    taught = teaching().label(cast("KeypointModel", Finder()), batch, torch.Generator())
    assert not taught["visible"][:, 1].any()
    assert not taught["weight"][:, 1].any()
    assert not taught["keypoints"][~taught["visible"]].any()


def test_a_point_counts_by_confidence_and_agreement() -> None:
    """Against the formula, with views that are a known distance apart."""

    class Shifted(Finder):
        shift = 0.0

        def infer(self, images: Tensor) -> Keypoints:
            found = super().infer(images)
            return Keypoints(found.keypoints + torch.tensor([self.shift, 0.0]), found.confidence)

    teacher = Shifted(confidence=0.8)
    teacher.shift = 2 / SIZE[1]  # one pixel: the mirrored view is as far off to the other side
    learned, batch = teaching(agreement=2 / 64), views(None)
    taught = learned.label(cast("KeypointModel", teacher), batch, torch.Generator())
    torch.testing.assert_close(taught["weight"], torch.full((24, 2), 0.8 * float(np.exp(-(2**2) / (2 * 2**2)))))
    measures = learned.end_epoch(0.1)
    assert measures["agreement_px"] == pytest.approx(2, abs=1e-4)
    assert measures["trust"] == pytest.approx(0.8 * np.exp(-0.5), abs=1e-4)
    assert learned.end_epoch(0.1) == {}  # nothing since


def test_the_weight_rises_along_the_ramp() -> None:
    learned = teaching(weight=2.0, start=0.2, ramp=0.4)
    assert [learned.weight(at) for at in (0.0, 0.19, 0.2, 0.3, 0.6, 1.0)] == pytest.approx([0, 0, 0, 0.5, 2, 2])
    assert teaching(weight=2.0, start=0.0, ramp=0.0).weight(0.0) == 2


@pytest.mark.parametrize("lost", [False, True])
def test_the_watch_tells_a_teacher_that_is_lost(lost: bool) -> None:
    learned = teaching()
    teacher = Finder(draws=torch.Generator().manual_seed(0) if lost else None)
    learned.label(cast("KeypointModel", teacher), views(None), torch.Generator())
    learned.end_epoch(JUDGED - 0.1)
    assert not learned.lost  # it is not judged yet
    learned.label(cast("KeypointModel", teacher), views(None), torch.Generator())
    learned.end_epoch(JUDGED)
    assert learned.lost == lost
    assert learned.weight(0.9) == (0.0 if lost else learned.settings.weight)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Eight labelled images, and eleven others of which three are among them."""
    folder = tmp_path / "faces"
    folder.mkdir()
    rows = csv_lines(16, seed=0)
    (folder / "train.csv").write_text("\n".join(rows[:9]) + "\n")
    (folder / "more.csv").write_text("\n".join([rows[0], *rows[6:]]) + "\n")
    return folder


def config(faces: Path, *overrides: str, **training: Any) -> Any:
    values = {
        "name": "taught",
        "model": {
            "backbone": {"name": "conv_sandwich", "channels": [4, 8], "norm": "batch"},
            "head": {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}, "stride": 2},
            "in_channels": 1,
            "input_size": SIDE,
        },
        "data": {
            "root": str(faces),
            "train": "train.csv",
            "unlabelled": "more.csv",
            "skeleton": {"names": list(NAMES), "pairs": [["left_eye", "right_eye"]]},
            "transforms": [{"HorizontalFlip": {"p": 0.5}}, {"Rotate": {"limit": 20}}],
        },
        "train": {
            "epochs": 4,
            "batch_size": 4,
            "average": {"name": "ema", "decay": 0.5},
            "unlabelled": {"batch_size": 3, "start": 0.0, "ramp": 0.5, **training},
        },
        "trainer": {"accelerator": "cpu", "logger": None},
    }
    return load_config(values, overrides)


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "final" / "model.safetensors")


def equal(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return all(torch.equal(one[name], two[name]) for name in one)


def test_weight_0_is_the_supervised_training(tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlabelled, "LOST", 0.0)  # a network of four epochs is sure of nothing
    train(config(faces, "data.unlabelled=null", "train.unlabelled=null"), out=tmp_path / "without")
    train(config(faces, weight=0.0), out=tmp_path / "none")
    train(config(faces), out=tmp_path / "taught")
    assert equal(tmp_path / "without", tmp_path / "none")
    assert not equal(tmp_path / "without", tmp_path / "taught")
    table = pd.read_csv(tmp_path / "taught" / "metrics.csv")
    assert table.trust.between(0, 1).all()
    assert (table.agreement_px >= 0).all()


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.average=null",),
        pytest.param(("train.average=swa",), marks=pytest.mark.slow),
        pytest.param(("data.device_transforms=true", "trainer.precision=bf16-mixed"), marks=pytest.mark.slow),
        pytest.param(("trainer.accumulate_grad_batches=2", "data.workers=1"), marks=pytest.mark.slow),
    ],
    ids=["ema", "own teacher", "swa", "device", "accumulation"],
)
def test_resume_goes_on_as_the_uninterrupted_run(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    monkeypatch.setattr(unlabelled, "LOST", 0.0)
    settings = config(faces, *overrides)
    train(settings, out=tmp_path / "whole")
    start = RunFolderCallback.on_train_epoch_start

    def killed(self: RunFolderCallback, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            raise KeyError("power")
        start(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolderCallback, "on_train_epoch_start", killed)
        with pytest.raises(KeyError):
            train(settings, out=tmp_path / "cut")
    train(settings, out=tmp_path / "cut", resume=True)
    assert equal(tmp_path / "whole", tmp_path / "cut")


def test_without_an_average_the_weights_stay_those_that_were_trained(tmp_path: Path, faces: Path) -> None:
    """A teacher beside them changes nothing while the images count nothing."""
    train(config(faces, "train.average=null", "data.unlabelled=null", "train.unlabelled=null"), out=tmp_path / "plain")
    train(config(faces, "train.average=null", weight=0.0), out=tmp_path / "beside")
    assert equal(tmp_path / "plain", tmp_path / "beside")


def test_images_that_are_not_augmented_are_warned_of(faces: Path, caplog: pytest.LogCaptureFixture) -> None:
    none, own = "data.transforms=[]", "train.unlabelled.transforms=[{Rotate: {limit: 20}}]"
    for overrides, warned in (([], 0), ([none], 1), ([none, own], 0)):
        caplog.clear()
        settings = config(faces, *overrides)
        data = build_train(settings)
        model = assemble(settings.model, data.skeleton)
        assert unlabelled.build_unlabelled(settings, model, data, None) is not None
        messages = [record.getMessage() for record in caplog.records]
        assert sum("without data.transforms the student sees" in message for message in messages) == warned


def test_a_training_tells_that_its_teacher_is_lost(tmp_path: Path, faces: Path, kpnet: Run) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 20, 3), dtype=np.uint8)  # another size and colour
    np.savez(faces / "noise.npz", images=noise)
    settings = config(faces, 'data.unlabelled="noise.npz"').model_dump(mode="json")
    (tmp_path / "noise.yaml").write_text(yaml.safe_dump(settings))
    result = kpnet("train", tmp_path / "noise.yaml", "--out", tmp_path / "run")
    assert result.code == 0
    said = " ".join(result.out.split())
    assert said.count("the teacher is lost") == 1
    assert "or the model is too weak yet: give more labels or more epochs" in said
    table = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert list(table.trust.isna()) == [False, False, True, True]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.head=regression",), 'head "regression" has no uncertainty, .*: use heatmap, simcc, offset, rle, '),
        (
            (
                "model.head={name: temporal, head: heatmap}",
                "data.format=synthetic_clips",
                "data.train=8",
                "data.skeleton=facial15",
            ),
            'head "temporal" looks at several frames',
        ),
        (("model.instances=true",), "a model that finds instances cannot learn from unlabelled images yet"),
        (("data.crop=points",), "data.unlabelled: without labels there is no box to crop"),
        (("data.unlabelled=null",), "train.unlabelled: there are no unlabelled images: give data.unlabelled"),
        (("data.unlabelled=gone",), "gone: no such file or folder; expected a folder of images, a video, an .npz or"),
        (("data.unlabelled=train.csv",), "data.unlabelled: no image besides the labelled ones: give others"),
        (
            ("train.unlabelled.transforms=[Rotat]",),
            r'^train\.unlabelled\.transforms: unknown transform "Rotat" \(did you mean "Rotate"\?\)$',
        ),
        (
            ("train.unlabelled.transforms=[Rotat]", "data.device_transforms=true"),
            r'^train\.unlabelled\.transforms: unknown transform "Rotat" \(did you mean "Rotate"\?\)$',
        ),
        (("data.transforms=[Rotat]",), r'^data\.transforms: unknown transform "Rotat" \(did you mean "Rotate"\?\)$'),
        (("train.unlabelled.ramp=2",), "train.unlabelled.ramp"),
        (
            ("train.unlabelled={start: 0.9, ramp: 0.5}",),
            r"train\.unlabelled: start \+ ramp: expected at most 1, the end of the training, found 1\.4; "
            r"after a start of 0\.9 give a ramp of at most 0\.1$",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_one_line(
    tmp_path: Path, faces: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        train(config(faces, *overrides), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("start", "ramp"), [(0.9, 0.1), (0.7, 0.3), (0.35, 0.65), (0.01, 0.99), (0.99, 0.0)])
def test_a_weight_may_rise_until_the_end(faces: Path, start: float, ramp: float) -> None:
    settings = config(faces, start=start, ramp=ramp)
    data = build_train(settings)
    taught = unlabelled.build_unlabelled(settings, assemble(settings.model, data.skeleton), data, None)
    assert taught is not None
    assert taught.teaching.weight(1.0) == pytest.approx(settings.train.unlabelled.weight)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Each takes its share of the labelled and of the unlabelled images of a step."""
    np.savez(tmp_path / "more.npz", images=np.stack([dot_image(np.array([[9.0 + i, 20.0]])) for i in range(9)]))
    overrides = (
        "model.head=gaussian_nll",
        f"data.root={tmp_path}",
        "data.unlabelled=more.npz",
        "train.unlabelled.weight=5",
        "train.optimizer.lr=0.002",
        "train.unlabelled.start=0",
        "train.unlabelled.ramp=0",
    )
    train(load_config(TINY, (*overrides, "train.unlabelled.batch_size=4")), out=tmp_path / "one")
    train_on_two((*overrides, "train.unlabelled.batch_size=2"), tmp_path / "two")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4)
    trust = [pd.read_csv(tmp_path / run / "metrics.csv").trust[0] for run in ("one", "two")]
    assert trust[0] == pytest.approx(trust[1], rel=1e-4)


def test_dots_are_what_the_helpers_draw() -> None:
    """The finder's own error is far below the tolerance of the test of pseudo-labels."""
    image = torch.from_numpy(dot_image(np.array([[11.3, 20.6]])))[None, None].float()
    both = torch.cat([image, image.flip(-1), image], 1)
    x = (centroids(both)[0, :, 0] + 1) * SIDE / 2 - 0.5
    torch.testing.assert_close(x, torch.tensor([11.3, SIDE - 1 - 11.3]), atol=0.02, rtol=0)
