"""How an unknown key is explained: with the nearest known key, or with its new name if it was renamed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from kpnet import KpnetError, build_model, load_config
from kpnet.config.pretraining import load_pretrain_config
from kpnet.core.validation import check_options, explain_validation_error
from kpnet.heads.multi import MultiHead


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ratio: float = 0.5
    other: int = 0


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    input: int
    many: list[Inner] = []
    inner: Inner | None = None


class Loose(BaseModel):
    """Like `Outer`, but ignores unknown keys."""

    input: int


def explained(values: Any, model: type[BaseModel] = Outer) -> str:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return explain_validation_error(caught.value, "a.yaml", model, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stem": 1}, 'unknown key "stem": it is called "input" now'),
        ({"stem": 1, "input": 1}, 'unknown key "stem": it is called "input" now'),
        ({"many": "no", "stem": 1}, 'unknown key "stem": it is called "input" now'),
        ({"input": 1, "inner": {"share": 0.1}}, 'unknown key "inner.share": it is called "ratio" now'),
        ({"input": 1, "many": [{}, {"share": 0.1}]}, 'unknown key "many.1.share": it is called "ratio" now'),
        ({"input": 1, "wrods": 1, "inner": {"share": 0.1}}, 'unknown key "inner.share": it is called "ratio" now'),
    ],
)
def test_a_renamed_key_is_reported_first_with_its_new_name(values: Any, message: str) -> None:
    assert explained(values) == f"a.yaml: {message}"


def test_a_renamed_key_is_found_where_unknown_keys_are_ignored() -> None:
    assert explained({"stem": 1}, Loose) == 'a.yaml: unknown key "stem": it is called "input" now'


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input": 1, "share": 1}, 'unknown key "share"; known here: inner, input, many'),
        ({"input": 1, "inner": {"stem": 1}}, 'unknown key "inner.stem"; known here: other, ratio'),
        ({"input": 1, "inner": {"answer": 1}}, 'unknown key "inner.answer"; known here: other, ratio'),
        ({}, '"input" is missing'),
        ({"many": [{"stem": 1}]}, '"input" is missing'),
    ],
)
def test_a_renamed_key_counts_only_where_the_new_name_is_known(values: Any, message: str) -> None:
    assert explained(values) == f"a.yaml: {message}"


def test_an_error_of_the_whole() -> None:
    assert explained([1]).startswith("a.yaml: value: Input should be")


def part(*, index_base: int = 1, ratio: float) -> None: ...


def test_options_of_a_part() -> None:
    with pytest.raises(KpnetError, match=r'^part: unknown key "first": it is called "index_base" now$'):
        check_options(part, {"first": 0, "ratio": 1}, "part")
    with pytest.raises(KpnetError, match=r'^part: unknown key "share": it is called "ratio" now$'):
        check_options(part, {"share": 0.2}, "part")
    with pytest.raises(KpnetError, match=r'^part: unknown key "tail"; known here: index_base, ratio$'):
        check_options(part, {"tail": 0.2, "ratio": 1}, "part")
    with pytest.raises(KpnetError, match=r'^head "multi": unknown key "answer": it is called "primary" now$'):
        check_options(MultiHead, {"heads": {"a": "rle"}, "answer": "a"}, 'head "multi"')


def test_configs() -> None:
    mask = {"model": {"backbone": "mlp"}, "data": {"images": "a.npz"}, "train": {"mask": {"share": 0.3}}}
    with pytest.raises(KpnetError, match=r'^config: unknown key "train.mask.share": it is called "ratio" now$'):
        load_pretrain_config(mask)
    model = {"backbone": "conv_sandwich", "head": {"name": "multi", "heads": {"a": "rle"}, "answer": "a"}}
    with pytest.raises(KpnetError, match=r'unknown key "answer": it is called "primary" now$'):
        build_model(load_config({"model": {**model, "num_keypoints": 3}}))
