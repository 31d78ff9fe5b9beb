"""`data.train` in the YAML: one file, or several with settings of their own."""

from __future__ import annotations

from typing import Any

import pytest
from support.bad_configs import BASE, fails

from kpnet.config.loading import load_config
from kpnet.config.schema import DataConfig, TrainFile
from kpnet.core.errors import KpnetError


@pytest.mark.parametrize(
    ("given", "files"),
    [
        (None, []),
        ("a.csv", [TrainFile(file="a.csv")]),
        (50, [TrainFile(file=50)]),
        ({"file": "a.csv", "limit": 3}, [TrainFile(file="a.csv", limit=3)]),
        (
            ["a.csv", {"file": 9, "format": "synthetic", "weight": 0.5, "transforms": []}],
            [TrainFile(file="a.csv"), TrainFile(file=9, format="synthetic", weight=0.5, transforms=[])],
        ),
    ],
)
def test_training_files_in_every_form_and_written_as_they_were_given(given: Any, files: list[TrainFile]) -> None:
    config = load_config({**BASE, "data": {"train": given}})
    assert config.data.train == files
    assert load_config(config) == config
    assert config.model_dump(mode="json")["data"]["train"] == given
    assert load_config({**BASE, "data": {"train": "a.csv"}}, ["data.train.limit=3"]).data.train[0].limit == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{file: a.csv, wieght: 1}", 'unknown key "data.train.wieght" (did you mean "weight"?); known here: complete_'),
        ("[a.csv, {file: b.csv, wieght: 1}]", 'unknown key "data.train.1.wieght" (did you mean "weight"?)'),
        ("[a.csv, {limit: 3}]", '"data.train.1.file" is missing'),
        ("{file: a.csv, weight: 0}", "data.train.weight: Input should be greater than 0, found 0"),
        ("{file: a.csv, weight: .inf}", "data.train.weight: Input should be a finite number, found inf"),
        ("[{file: a.csv, limit: 0}]", "data.train.0.limit: Input should be greater than 0, found 0"),
        ("3.5", "data.train: Input should be a valid string, found 3.5"),
        ("[a.csv, null]", "data.train.1: Input should be a valid string, found None"),
    ],
)
def test_bad_training_files(given: str, message: str) -> None:
    assert message in fails(f"data.train={given}")


DEEP, DEEPER, PLAIN = ({"name": "points_csv", "bits": 12}, {"name": "coco", "bits": 14}, "yolo")


@pytest.mark.parametrize(
    ("own", "files", "bits"),
    [
        (DEEP, [], 12),
        (PLAIN, [], 16),
        (DEEP, [DEEPER], 12),
        (PLAIN, [DEEP], 12),
        (PLAIN, [DEEP, DEEP], 12),
        (PLAIN, [DEEP, DEEPER], 16),
        (PLAIN, [DEEP, None], 16),
    ],
)
def test_the_bits_are_those_of_the_data_or_of_all_files(own: Any, files: list[Any], bits: int) -> None:
    train = [TrainFile(file=f"{number}.csv", format=form) for number, form in enumerate(files)]
    assert DataConfig(format=own, train=train).image_bits() == bits


@pytest.mark.parametrize("bits", [None, [12], "twelve", 99])
def test_bits_that_are_none(bits: Any) -> None:
    with pytest.raises(KpnetError, match="bits: expected 8 to 16"):
        DataConfig(format={"name": "points_csv", "bits": bits}).image_bits()


def test_the_format_of_a_name_is_that_of_the_data_before_those_of_the_files() -> None:
    train = [TrainFile(file="a.csv", format=DEEP), TrainFile(file="b.csv", format=DEEPER)]
    data = DataConfig(format="points_csv", train=train)
    assert [data.format_named(name) for name in ("points_csv", "coco", "pts")] == ["points_csv", DEEPER, "pts"]
