"""Which data a run is evaluated on: its own validation data, or what is given, as its training data was read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.format_files import NAMES, PICTURES, every_instance, write_coco, write_points_csv, write_pts

from kpnet.config.loading import load_config, to_yaml
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset
from kpnet.data.build import open_dataset
from kpnet.data.convert import convert
from kpnet.data.seen_images import write_seen_images
from kpnet.evaluation.run_data import adapt_dataset, check_unseen, evaluation_dataset, validation_dataset
from kpnet.models.build import assemble
from kpnet.models.keypoint_model import KeypointModel

SANDWICH = {"name": "conv_sandwich", "channels": [4, 8]}
MODEL = {"backbone": SANDWICH, "head": "heatmap", "in_channels": 1, "input_size": 32}


def run(folder: Path, data: dict[str, Any]) -> Path:
    """The folder of a run with that data section, without its weights."""
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(load_config({"model": MODEL, "data": data})))
    return folder


def model_of(names: tuple[str, ...] = NAMES, **values: Any) -> KeypointModel:
    return assemble(load_config({"model": {**MODEL, **values}}).model, Skeleton.of_names(names))


def points(dataset: KeypointDataset) -> np.ndarray:
    return np.stack([dataset.read(i)[1] for i in range(len(dataset))])


EVERY = np.stack([xy for _, xy in every_instance()])
FIRST = np.array([instances[0] for _, _, instances in PICTURES], float)


def test_a_runs_own_validation_data(tmp_path: Path) -> None:
    write_points_csv(tmp_path / "data")
    data = {"format": "points_csv", "root": str(tmp_path / "data"), "train": "gone.csv", "val": "points.csv"}
    found = evaluation_dataset(run(tmp_path / "run", data), None, model_of())
    np.testing.assert_allclose(points(found), EVERY)
    assert found[0]["image"].shape == (1, 32, 32)
    bare = run(tmp_path / "bare", {**data, "val": None})
    for folder, message in ((bare, "bare: no validation data in its config; give a file"), (None, "^no data")):
        with pytest.raises(KpnetError, match=message):
            evaluation_dataset(folder, None, model_of())
    with pytest.raises(KpnetError, match=r"bare: no validation data in its config$"):
        validation_dataset(bare, model_of())


def test_a_file_is_read_by_what_it_is_whatever_the_run_was_trained_on(tmp_path: Path) -> None:
    trained = run(tmp_path / "run", {"format": "synthetic", "train": 2})
    for path in (write_points_csv(tmp_path / "csv"), write_coco(tmp_path / "coco")):
        for folder in (trained, None):
            np.testing.assert_allclose(points(evaluation_dataset(folder, path, model_of())), EVERY)
    with pytest.raises(KpnetError, match=r"gone\.csv"):
        evaluation_dataset(trained, tmp_path / "gone.csv", model_of())


def test_a_folder_is_read_with_the_options_of_the_runs_format(tmp_path: Path) -> None:
    """Points counted from 0: with the format's default they would be one pixel off."""
    folder = write_pts(tmp_path / "faces", index_base=0)
    options = {"format": {"name": "pts", "index_base": 0}, "skeleton": list(NAMES)}
    own = run(tmp_path / "own", options)
    np.testing.assert_allclose(points(evaluation_dataset(own, folder, model_of())), FIRST, atol=1e-4)
    file = {"file": "faces", "format": {"name": "pts", "index_base": 0}}
    by_file = run(tmp_path / "by_file", {"format": "synthetic", "train": file, "skeleton": list(NAMES)})
    np.testing.assert_allclose(points(evaluation_dataset(by_file, folder, model_of())), FIRST, atol=1e-4)
    other = run(tmp_path / "other", {"format": "synthetic", "train": 2})
    np.testing.assert_allclose(points(evaluation_dataset(other, folder, model_of())), FIRST - 1, atol=1e-4)


def test_what_cannot_be_detected_is_read_as_the_runs_format(tmp_path: Path) -> None:
    path = write_points_csv(tmp_path / "csv").rename(tmp_path / "csv" / "points.txt")
    own = run(tmp_path / "own", {"format": "points_csv", "train": "x.csv"})
    np.testing.assert_allclose(points(evaluation_dataset(own, path, model_of())), EVERY)
    with pytest.raises(KpnetError, match=r"points\.txt"):
        evaluation_dataset(None, path, model_of())


def test_points_that_model_and_file_share_and_the_crop_of_the_training(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "coco")
    model = model_of(("tail", "nose"), crop="box", box_scale=1.5)
    data = evaluation_dataset(None, path, model)
    assert data.skeleton.names == ("tail", "nose")
    assert data.labels().tolist() == [[False, True]] * 4
    assert data.cropper is not None
    assert (data.cropper.by, data.cropper.jitters) == ("box", False)
    assert evaluation_dataset(None, path, model_of()).cropper is None


def test_data_that_a_run_has_seen_is_refused_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train.csv", "val.csv", "other.csv"):
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("Image\n")
    data = {"root": str(tmp_path / "data"), "train": [{"file": "train.csv", "weight": 0.5}], "val": "val.csv"}
    folder = run(tmp_path / "run", data)
    monkeypatch.chdir(tmp_path / "data")
    for name in ("train.csv", "val.csv"):
        for path in (tmp_path / "data" / name, Path(name), Path("..") / "data" / name):
            with pytest.raises(KpnetError, match=name):
                check_unseen(folder, None, path, validation_allowed=False)
    assert check_unseen(folder, None, tmp_path / "data" / "other.csv") is None
    assert "was validated with it" in str(check_unseen(folder, None, tmp_path / "data" / "val.csv"))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "labels.csv").write_text("image\n")
    alone = run(tmp_path / "alone", {"root": str(tmp_path / "one"), "train": "labels.csv"})
    with pytest.raises(KpnetError, match="one"):
        check_unseen(alone, None, tmp_path / "one")  # a folder stands for its only file of labels
    check_unseen(tmp_path / "model", None, tmp_path / "data" / "train.csv")  # a model folder has no config of a run


def test_images_that_a_run_has_seen_are_known_under_any_name(
    tmp_path: Path, make_csv: Callable[[int, int], str]
) -> None:
    """As files of other names, and of another format; what the run's file holds now does not count."""
    rows = {name: make_csv(count, seed) for seed, (name, count) in enumerate({"train": 4, "val": 3, "new": 3}.items())}
    rows["mixed"] = rows["new"] + rows["train"].splitlines()[2] + "\n"
    for name, text in rows.items():
        (tmp_path / f"{name}.csv").write_text(text)
    data = {name: open_dataset(tmp_path / f"{name}.csv") for name in rows}
    folder = run(tmp_path / "run", {"root": str(tmp_path), "train": "train.csv", "val": "val.csv"})
    write_seen_images(folder, data["train"], data["val"])
    same = tmp_path / "same.npz"
    convert(data["train"], same)
    with pytest.raises(KpnetError, match=r"same\.npz: .*run was trained on it; give images of their own"):
        check_unseen(folder, open_dataset(same), same)
    with pytest.raises(KpnetError, match=r'mixed\.csv: .*was trained on 1 of its 4 images, such as "3"; '):
        check_unseen(folder / "final", data["mixed"], tmp_path / "mixed.csv")
    assert str(check_unseen(folder, data["val"], tmp_path / "val.csv")).endswith("run was validated with it")
    with pytest.raises(KpnetError, match="was validated with it"):
        check_unseen(folder, data["val"], tmp_path / "val.csv", validation_allowed=False)
    assert check_unseen(folder, data["new"], tmp_path / "train.csv") is None


def test_a_model_of_whole_images_is_not_given_samples(tmp_path: Path) -> None:
    """It would answer each with the best instance of the image."""
    dataset = evaluation_dataset(None, write_points_csv(tmp_path), model_of())
    assert len(adapt_dataset(dataset, model_of())) == len(dataset)
    with pytest.raises(KpnetError, match=r'the model has the head "centers", which finds .*; expected a head that'):
        adapt_dataset(dataset, model_of(head="centers"))


def test_a_missing_label_says_of_presence_what_it_said_in_the_training(tmp_path: Path) -> None:
    write_points_csv(tmp_path / "data")
    for missing, expected in (("absent", 0.0), ("unknown", np.nan)):
        data = {"format": "points_csv", "root": str(tmp_path), "train": "gone.csv", "missing": missing}
        folder, model = run(tmp_path / missing, data), model_of(presence=True)
        for form in (None, "points_csv"):
            found = evaluation_dataset(folder, tmp_path / "data/points.csv", model, form)
            adapted = adapt_dataset(found, model)
            lacking = [~np.isfinite(found.keypoints_of(index)).all(-1) for index in range(len(found))]
            assert np.any(lacking)
            for view in (found, adapted):
                present = np.stack([view[index]["present"] for index in range(len(view))])
                np.testing.assert_array_equal(present[np.stack(lacking)], expected)
