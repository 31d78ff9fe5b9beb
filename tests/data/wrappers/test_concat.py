"""Several training files as one dataset: points by name, weights, and settings of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KaggleCSV, KeypointDataset
from kpnet.data.build import build_splits, build_train, points_without_labels
from kpnet.data.transforms.augment import Augment
from kpnet.data.wrappers.concat import ConcatDataset, ConcatPart

FACE = ["left", "right", "nose"]
FLIP = {"HorizontalFlip": {"p": 1.0}}
SHAKE = {"Affine": {"translate_px": [-3, 3], "p": 1.0}}


def write(path: Path, header: str, *rows: str, side: int = 8, seed: int = 0) -> None:
    """Rows of label cells, an image of noise behind each."""
    images = np.random.default_rng(seed).integers(0, 256, (len(rows), side * side))
    lines = [f"{row},{' '.join(map(str, image))}" for row, image in zip(rows, images.tolist(), strict=True)]
    path.write_text("\n".join([f"{header},Image", *lines]) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """full.csv has all three points, other.csv two of them, in another order and of another size, and one more."""
    write(
        tmp_path / "full.csv",
        "left_x,left_y,right_x,right_y,nose_x,nose_y",
        *("6,2,1,2,4,5", "5,1,2,1,3,4", "6,3,1,3,,"),
    )
    write(
        tmp_path / "other.csv",
        "ImageId,nose_x,nose_y,ear_x,ear_y,right_x,right_y,right_weight",
        *("a,8,10,1,1,2,4,0.5", "b,8,9,1,1,2,3,", "c,7,9,1,1,,,0.7", "d,7,8,1,1,2,2,0"),
        side=16,
        seed=1,
    )
    write(tmp_path / "blank.csv", "left_x,left_y,nose_x,nose_y", ",,,", ",,,")
    write(tmp_path / "tail.csv", "tail_x,tail_y,tip_x,tip_y", "1,1,2,2")
    return tmp_path


def config(folder: Path, train: Any, **data: Any) -> Config:
    values = {"root": str(folder), "train": train, "skeleton": FACE, **data}
    model = {"backbone": "conv_sandwich", "head": "regression", "in_channels": 1, "input_size": 8}
    return load_config({"model": model, "data": values, "train": {"seed": 5}})


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in ("image", "keypoints", "visible", "weight"))


@pytest.mark.parametrize("train", ["full.csv", {"file": "full.csv"}, ["full.csv"]])
@pytest.mark.parametrize("transforms", [[], [SHAKE]])
def test_one_file_is_as_the_format_itself_gives_it(folder: Path, train: Any, transforms: list[Any]) -> None:
    joined = build_train(config(folder, train, transforms=transforms))
    skeleton = Skeleton.load(FACE)
    augment = Augment(transforms, skeleton) if transforms else None
    alone = KaggleCSV(folder / "full.csv", skeleton=skeleton, image_size=(8, 8), transform=augment, seed=5)
    assert len(joined) == len(alone) == 3
    for epoch in (0, 3):
        joined.set_epoch(epoch)
        alone.set_epoch(epoch)
        assert all(same(joined[i], alone[i]) and joined[i]["index"] == i for i in range(3))
    assert [joined.image_name(i) for i in range(3)] == ["0", "1", "2"]


def test_points_are_matched_by_name_and_weights_multiply(folder: Path) -> None:
    data = build_train(config(folder, ["full.csv", {"file": "other.csv", "weight": 0.25}]))
    assert data.skeleton.names == tuple(FACE)
    items = [data[i] for i in range(7)]
    assert [item["index"] for item in items] == list(range(7))
    visible = [[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1]]
    assert [item["visible"].int().tolist() for item in items] == visible
    assert data.labels().astype(int).tolist() == visible
    weights = [[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0.125, 0.25], [0, 0.25, 0.25], [0, 0, 0.25], [0, 0, 0.25]]
    assert [item["weight"].tolist() for item in items] == weights
    # Halved into the input, a pixel x of 16 is (x + 0.5) / 2 - 0.5 of 8; either is (2 x + 1) / W - 1 of its own.
    assert items[3]["keypoints"].tolist() == [[0, 0], [5 / 16 - 1, 9 / 16 - 1], [17 / 16 - 1, 21 / 16 - 1]]
    assert items[1]["keypoints"].tolist() == [[11 / 8 - 1, 3 / 8 - 1], [5 / 8 - 1, 3 / 8 - 1], [7 / 8 - 1, 9 / 8 - 1]]
    assert all(item["image"].shape == (1, 8, 8) for item in items)
    other = KaggleCSV(folder / "other.csv", image_size=(8, 8))
    assert torch.equal(items[4]["image"], other[1]["image"])
    assert [data.image_name(i) for i in (2, 3, 6)] == [
        f"{folder / name}" for name in ("full.csv:2", "other.csv:a", "other.csv:d")
    ]
    assert data[-1]["index"] == 6
    assert np.array_equal(data.read(-1)[0], data.read(6)[0])
    for get in (data.__getitem__, data.read, data.image_name):
        with pytest.raises(IndexError):
            get(7)


def test_without_a_skeleton_the_first_file_gives_it(folder: Path) -> None:
    assert build_train(config(folder, ["full.csv", "other.csv"], skeleton=None)).skeleton.names == tuple(FACE)
    turned = build_train(config(folder, ["other.csv", "full.csv"], skeleton=None))
    assert turned.skeleton.names == ("nose", "ear", "right")
    assert turned[4]["visible"].tolist() == [True, False, True]


def test_limit_takes_the_first_samples(folder: Path) -> None:
    data = build_train(config(folder, [{"file": "full.csv", "limit": 2}, {"file": "other.csv", "limit": 1}]))
    assert [data.read(i)[1][1].tolist() for i in range(len(data))] == [[1, 2], [2, 1], [2, 4]]
    complete = build_train(config(folder, {"file": "full.csv", "limit": 2, "complete_only": True}))
    assert complete.labels().all()
    with pytest.raises(KpnetError, match=r"full\.csv: limit is 3, but it has 2 samples"):
        build_train(config(folder, {"file": "full.csv", "limit": 3, "complete_only": True}))


def test_each_file_has_its_own_settings(folder: Path) -> None:
    files = [
        {"file": "full.csv", "complete_only": True, "transforms": [FLIP]},
        {"file": 3, "format": "synthetic", "weight": 2},
        {"file": "other.csv", "transforms": []},
    ]
    names = ["left_eye_center", "right_eye_center", "nose_tip"]
    for path in folder.glob("*.csv"):
        for short, name in zip(FACE, names, strict=True):
            path.write_text(path.read_text().replace(f"{short}_", f"{name}_"))
    data = build_train(config(folder, files, skeleton=names, transforms=[SHAKE]))
    assert len(data) == 2 + 3 + 4
    assert data[0]["keypoints"][0].tolist() == [-(3 / 8 - 1), 5 / 8 - 1]  # the right eye's, mirrored
    assert data[3]["weight"].max() == 2
    assert data[5]["keypoints"][2].tolist() == [17 / 16 - 1, 21 / 16 - 1]
    assert not torch.equal(data[3]["keypoints"], build_train(config(folder, files, skeleton=names))[3]["keypoints"])


def test_weights_swap_with_their_labels_under_a_mirror(folder: Path) -> None:
    write(
        folder / "w.csv", "left_x,left_y,left_weight,right_x,right_y,right_weight,nose_x,nose_y", "6,2,.25,1,2,.75,4,5"
    )
    plain, mirrored = (build_train(config(folder, "w.csv", transforms=t))[0] for t in ([], [FLIP]))
    assert plain["weight"].tolist() == [0.25, 0.75, 1]
    assert mirrored["weight"].tolist() == [0.75, 0.25, 1]
    assert torch.equal(mirrored["keypoints"], torch.tensor([-1, 1]) * plain["keypoints"][[1, 0, 2]])


def test_draws_are_of_the_seed_the_epoch_and_the_place_in_the_whole(folder: Path) -> None:
    (folder / "copy.csv").write_bytes((folder / "full.csv").read_bytes())
    data = build_train(config(folder, ["full.csv", "copy.csv"], transforms=[SHAKE]))
    data.set_epoch(0)
    first = [data[i]["keypoints"] for i in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(first, [data[i]["keypoints"] for i in range(6)], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first[:3], first[3:], strict=True))
    loader = DataLoader(data, batch_size=6, num_workers=1, persistent_workers=True)
    for epoch in (0, 4):  # workers that live on see the new epoch
        data.set_epoch(epoch)
        (batch,) = loader
        assert torch.equal(batch["keypoints"], torch.stack([data[i]["keypoints"] for i in range(6)]))
    assert not torch.equal(batch["keypoints"], torch.stack(first))


def test_unlabelled_points_are_named_and_an_unlabelled_file_is_refused(folder: Path) -> None:
    assert points_without_labels(build_train(config(folder, ["full.csv", "other.csv"]))) == []
    write(folder / "half.csv", "left_x,left_y,nose_x,nose_y,right_x,right_y", ",,1,1,,", ",,,,,", "2,2,1,1,,")
    half = {"file": "half.csv", "limit": 2}
    assert points_without_labels(build_train(config(folder, half))) == ["left", "right"]
    assert points_without_labels(build_train(config(folder, [half, "full.csv"]))) == []
    with pytest.raises(KpnetError, match=r"blank\.csv: none of its 2 samples has a label; .*kpnet predict RUN FILE"):
        points_without_labels(build_train(config(folder, ["full.csv", "blank.csv"])))


def test_a_dataset_of_a_users_own_is_read_for_its_labels(folder: Path) -> None:
    data = KaggleCSV(folder / "full.csv")
    assert np.array_equal(KeypointDataset.labels(data), data.labels())
    assert KeypointDataset.point_weights(data, 0).tolist() == [1, 1, 1]


def test_validation_data_has_every_point_of_the_training_data(folder: Path) -> None:
    train, val = build_splits(config(folder, "other.csv", val="other.csv", skeleton=["right", "nose"]), (0, 0))
    assert val is not None
    assert all(same(train[i], val[i]) for i in range(4))
    with pytest.raises(KpnetError, match=r'other\.csv: no point "left", which the skeleton has'):
        build_splits(config(folder, "full.csv", val="other.csv"), (0, 0))


BAD = {
    "no point in common": (
        ["full.csv", "tail.csv"],
        r"tail\.csv: none of its points \(tail, tip\) .*\(left, right, nose\)",
    ),
    "a point that it has not": ("other.csv", r'other\.csv: no point "left", which the skeleton has'),
    "a point that none has": (["other.csv", "more.csv"], r'more\.csv: no point "left".* \(did you mean "lefd"\?\)'),
    "twice": (["full.csv", {"file": "sub/../full.csv", "weight": 2}], "lists sub/../full.csv twice: remove one"),
    "more than there are": ([{"file": "full.csv", "limit": 4}], r"full\.csv: limit is 4, but it has 3 samples"),
    "a misspelt file": (["full.csv", "othr.csv"], r'othr\.csv: no such file \(did you mean "other\.csv"\?\)'),
    "no such folder": (["sub/full.csv"], r"sub/full\.csv: no such file: there is no folder .*sub$"),
    "no file": ([], r"data\.train is missing"),
    "another format": ([{"file": "full.csv", "format": "synthetic"}], "expected their number"),
    "nothing complete": (["full.csv", {"file": "blank.csv", "complete_only": True}], r"blank\.csv: none of 2 rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(folder: Path, case: str) -> None:
    train, message = BAD[case]
    write(folder / "more.csv", "lefd_x,lefd_y,nose_x,nose_y", "1,1,2,2")
    with pytest.raises(KpnetError, match=message) as caught:
        build_train(config(folder, train))
    assert "\n" not in str(caught.value)


def test_complete_is_a_row_with_those_of_the_skeletons_points_that_its_file_has(folder: Path) -> None:
    """The file has no left, which makes no row incomplete, and neither does the ear, which nobody asked for."""
    write(folder / "partly.csv", "nose_x,nose_y,ear_x,ear_y,right_x,right_y", "4,5,1,1,1,2", "4,5,,,1,2", "4,5,1,1,,")
    joined = build_train(config(folder, ["full.csv", {"file": "partly.csv", "complete_only": True}]))
    assert joined.labels()[3:].tolist() == [[False, True, True]] * 2


def test_a_point_that_a_skeleton_tells_as_the_mean_of_others(folder: Path) -> None:
    """Missing where one of them is; it weighs as the lightest of them."""
    given = Skeleton.load({"names": ["nose", "ear", "right"], "means": {"middle": ["nose", "right"]}})
    other = KaggleCSV(folder / "other.csv", skeleton=given)
    data = ConcatDataset(Skeleton.load(["middle", "ear"]), [ConcatPart("other", other)])
    assert data.read(0)[1].tolist() == [[5, 7], [1, 1]]
    assert data.labels().tolist() == [[True, True], [True, True], [False, True], [False, True]]
    assert np.isnan(data.read(2)[1][0]).all()
    assert data.point_weights(0).tolist() == [0.5, 1]
    assert data.visibility(2).tolist() == [0, 2]


@pytest.mark.parametrize("names", [["left"], ["left", "right"], ["right", "nose"], ["nose", "left"]])
def test_some_of_a_files_points(names: list[str], folder: Path) -> None:
    """The first, the last, any: as many as were asked for, and those."""
    own = KaggleCSV(folder / "full.csv")
    joined = ConcatDataset(Skeleton(tuple(names)), [ConcatPart("full.csv", own)])
    places = [own.skeleton.names.index(name) for name in names]
    np.testing.assert_array_equal(joined.read(0)[1], own.read(0)[1][places])
    np.testing.assert_array_equal(joined.labels(), own.labels()[:, places])
    assert joined.visibility(0).shape == joined.point_weights(0).shape == (len(names),)
    assert joined[0]["keypoints"].shape == (len(names), 2)


def test_an_image_of_another_type_is_refused() -> None:
    class Floats(KeypointDataset):
        skeleton = Skeleton(("nose",))

        def __len__(self) -> int:
            return 1

        def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros((4, 4), np.float32), np.zeros((1, 2))

    with pytest.raises(KpnetError, match=r"expected an image uint8 .*found float32 \(4, 4\)"):
        Floats()[0]
