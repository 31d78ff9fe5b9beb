"""From the data section of a config to datasets: which files, seeds, crops, weights and folds they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KaggleCSV, KeypointDataset, SyntheticFaces
from kpnet.data.augmentations import device_augmentation
from kpnet.data.build import build_dataset, build_splits, build_train, build_val, open_dataset, points_without_labels

STILLS = (0, 0)


def config(data: dict[str, Any], seed: int = 0, head: str = "heatmap", **model: Any) -> Config:
    values = {"backbone": "conv_sandwich", "head": head, "in_channels": 1, "input_size": 32, **model}
    return load_config({"model": values, "data": data, "train": {"seed": seed}})


def csv(path: Path, names: str, rows: int, side: int = 4) -> Path:
    """Kaggle's layout: point k of row i is at (i, k), every pixel is i."""
    points = range(len(names))
    images = [" ".join([str(i)] * side**2) for i in range(rows)]
    lines = [",".join(f"{name}_{axis}" for name in names for axis in "xy") + ",Image"]
    lines += [",".join([*(f"{i},{k}" for k in points), images[i]]) for i in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def pixels(dataset: KeypointDataset) -> np.ndarray:
    """The images (N, H, W) of `read`, which augmentation does not change."""
    return np.stack([dataset.read(i)[0] for i in range(len(dataset))])


def test_files_are_joined_on_the_first_ones_points_with_their_limits_and_weights(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "pq", 3)
    csv(tmp_path / "b.csv", "qp", 4)
    given = {"root": str(tmp_path), "train": ["a.csv", {"file": "b.csv", "limit": 2, "weight": 0.5}]}
    train = build_train(config(given))
    assert train.skeleton.names == ("p", "q")
    assert len(train) == 3 + 2
    assert train.read(1)[1].tolist() == [[1, 0], [1, 1]]
    assert train.read(4)[1].tolist() == [[1, 1], [1, 0]], "matched by name"
    assert train[0]["weight"].tolist() == [1, 1]
    assert train[4]["weight"].tolist() == [0.5, 0.5]
    asked = build_train(config({**given, "skeleton": ["q"]}))
    assert asked.read(1)[1].tolist() == [[1, 1]]


def test_samples_say_what_is_present_where_the_model_learns_it(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "pq", 3)
    csv(tmp_path / "b.csv", "p", 3)
    given = {"root": str(tmp_path), "train": ["a.csv", "b.csv"], "val": "a.csv", "missing": "absent"}
    train, val = build_splits(config(given), STILLS)
    assert val is not None
    assert "present" not in train[0]
    assert "present" not in val[0]
    train, val = build_splits(config(given, presence=True), STILLS)
    assert val is not None
    assert [each["present"].tolist() for each in (train[0], val[0])] == [[1, 1], [1, 1]]
    assert train[3]["present"].isnan().tolist() == [False, True], "a file without the point knows nothing of it"
    lines = csv(tmp_path / "b.csv", "pq", 3).read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join([lines[0], lines[1].replace("0,1,", ",,", 1)]))
    for missing, expected in (("absent", "0.0"), ("unknown", "nan")):
        joined = build_train(config({**given, "missing": missing}, presence=True))
        assert str(joined[3]["present"][1].item()) == expected
    folds = {key: value for key, value in given.items() if key != "val"} | {"fold": {"index": 0, "of": 3}}
    for part in build_splits(config(folds, presence=True), STILLS):
        assert part is not None
        assert "present" in part[0]


def test_a_file_may_have_transforms_and_a_format_of_its_own(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "pq", 1)
    files = ["a.csv", {"file": 2, "format": "synthetic", "transforms": []}]
    data = {"root": str(tmp_path), "train": files, "transforms": [{"InvertImg": {"p": 1}}], "skeleton": "facial15"}
    with pytest.raises(KpnetError, match=r"a\.csv"):  # it has none of the points
        build_train(config(data))
    data["train"] = [{"file": 1, "format": "synthetic"}, {"file": 2, "format": "synthetic", "transforms": []}]
    train = build_train(config(data, input_size=96))
    read = [train.read(i)[0] / 255 for i in range(3)]
    np.testing.assert_allclose(train[0]["image"][0], 1 - read[0], atol=1e-6)
    np.testing.assert_allclose(train[2]["image"][0], read[2], atol=1e-6)
    plain = build_train(config(data, input_size=96), augment=False)
    np.testing.assert_allclose(plain[0]["image"][0], read[0], atol=1e-6)


def test_a_file_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "p", 1)
    (tmp_path / "sub").mkdir()
    for second in ("a.csv", "sub/../a.csv"):
        with pytest.raises(KpnetError, match="twice"):
            build_train(config({"root": str(tmp_path), "train": ["a.csv", second]}))
    with pytest.raises(KpnetError, match=r"data\.train"):
        build_train(config({"root": str(tmp_path)}))


def test_validation_faces_are_others_and_the_same_for_every_seed() -> None:
    splits = [build_splits(config({"format": "synthetic", "train": 3, "val": 3}, seed), STILLS) for seed in (0, 7)]
    (train, val), (other_train, other_val) = splits
    assert val is not None
    assert other_val is not None
    assert not np.array_equal(pixels(train), pixels(other_train))
    assert np.array_equal(pixels(train), pixels(SyntheticFaces(3, seed=0)))
    assert np.array_equal(pixels(val), pixels(other_val))
    assert not np.array_equal(pixels(val), pixels(train))
    assert build_val(config({"format": "synthetic", "train": 3}), train.skeleton, STILLS) is None


def test_a_fold_holds_the_same_samples_out_for_every_seed() -> None:
    held = []
    for seed in (0, 5):
        data = {"format": "synthetic", "train": 7, "fold": {"index": 1, "of": 3}, "transforms": [{"InvertImg": {}}]}
        train, val = build_splits(config(data, seed), STILLS)
        assert val is not None
        assert len(train) + len(val) == 7
        seen, kept = pixels(train), pixels(val)
        assert not {image.tobytes() for image in seen} & {image.tobytes() for image in kept}
        assert all(val.transform_of(i) is None for i in range(len(val)))
        assert train.transform_of(0) is not None
        held.append(kept)
    assert np.array_equal(held[0], held[1])


def test_crops_jitter_in_training_alone(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "pq", 2)
    crop = {"by": "points", "shift": 0.1, "scale": 0.2}
    given = config({"root": str(tmp_path), "train": "a.csv", "val": "a.csv", "crop": crop})
    train, val = build_splits(given, STILLS)
    assert train.cropper is not None
    assert train.cropper.jitters
    assert val is not None
    assert val.cropper is not None
    assert not val.cropper.jitters
    plain = build_train(given, augment=False).cropper
    assert plain is not None
    assert not plain.jitters


def test_clips_become_windows_where_the_model_looks_at_several_frames(tmp_path: Path) -> None:
    clips = {"format": {"name": "synthetic_clips", "frames": 4}, "train": 2, "val": 1}
    train, val = build_splits(config(clips), (2, 1))
    assert train[0]["image"].shape == (4, 1, 32, 32)
    assert val is not None
    assert len(val) == 4
    single, _ = build_splits(config(clips), STILLS)
    assert single[0]["image"].shape == (1, 32, 32)
    csv(tmp_path / "a.csv", "pq", 2)
    stills = {"root": str(tmp_path), "train": "a.csv"}
    for data in (stills, {**clips, "crop": "points"}, {**clips, "val": None, "fold": {"index": 0, "of": 2}}):
        with pytest.raises(KpnetError, match="heatmap"):
            build_splits(config(data), (1, 0))


def test_points_of_another_order_and_points_that_are_lacking(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "pq", 2)
    given = config({"root": str(tmp_path), "train": "a.csv"})
    own = build_dataset(given.data, given.model, "a.csv")
    assert type(own) is KaggleCSV
    turned = build_dataset(given.data, given.model, "a.csv", skeleton=Skeleton(("q", "p")))
    assert turned.read(1)[1].tolist() == [[1, 1], [1, 0]]
    wider = Skeleton(("q", "r"))
    with pytest.raises(KpnetError, match='"r"'):
        build_dataset(given.data, given.model, "a.csv", skeleton=wider)
    partial = build_dataset(given.data, given.model, "a.csv", skeleton=wider, partial=True)
    assert partial.labels().tolist() == [[True, False]] * 2
    with pytest.raises(KpnetError):  # nothing shared
        build_dataset(given.data, given.model, "a.csv", skeleton=Skeleton(("r",)), partial=True)


def test_a_file_is_opened_by_what_it_is_or_as_it_is_said_to_be(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "pq", 2, side=5)
    for data in (open_dataset(path), open_dataset(path, "kaggle_csv"), open_dataset(tmp_path)):
        assert type(data) is KaggleCSV
        assert data[1]["image"].shape == (1, 5, 5), "as it is"
    with pytest.raises(KpnetError):
        open_dataset(path, "points_csv")
    faces = open_dataset(Path("30"), "synthetic")
    assert len(faces) == 30


def test_points_without_any_label_are_found(tmp_path: Path) -> None:
    csv(tmp_path / "a.csv", "pq", 2)
    (tmp_path / "b.csv").write_text("p_x,p_y,q_x,q_y,r_x,r_y,Image\n1,2,,,,,0 0 0 0\n")
    (tmp_path / "c.csv").write_text("p_x,p_y,q_x,q_y,Image\n,,,,0 0 0 0\n")
    data = {"root": str(tmp_path), "train": ["b.csv", "a.csv"], "skeleton": ["p", "q", "r"]}
    assert points_without_labels(build_train(config(data))) == ["r"]
    assert points_without_labels(build_train(config({**data, "train": ["b.csv"]}))) == ["q", "r"]
    folds, _ = build_splits(config({**data, "fold": {"index": 0, "of": 3}}), STILLS)
    assert "r" in points_without_labels(folds)
    with pytest.raises(KpnetError, match=r"c\.csv"):
        points_without_labels(build_train(config({**data, "train": ["a.csv", "c.csv"], "skeleton": ["p", "q"]})))


def test_transforms_of_the_device_do_not_run_on_the_cpu_too() -> None:
    data = {"format": "synthetic", "train": 4, "transforms": ["CLAHE", "HorizontalFlip"], "device_transforms": True}
    config = load_config({"model": {"backbone": "conv_sandwich", "head": "heatmap", "in_channels": 1}, "data": data})
    train = build_train(config)
    augment = device_augmentation(config.data, config.model, train.skeleton)
    assert augment is not None
    assert (augment.on_cpu, augment.names) == (["CLAHE"], ["HorizontalFlip"])
    assert [step.name for step in train.parts[0].transform.steps] == ["CLAHE"]  # type: ignore[union-attr]
    config.data.train[0].transforms = ["GaussNoise"]
    with pytest.raises(KpnetError, match=r"data\.device_transforms: 4 has transforms of its own"):
        build_train(config)
