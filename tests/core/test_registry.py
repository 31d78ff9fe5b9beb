"""Names to classes; options checked against the constructor."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.registry import Registry
from kpnet.core.validation import check_options

SHAPES: Registry[type] = Registry("shape")


@SHAPES.register("circle")
class Circle:
    def __init__(
        self,
        center: int,
        *,
        radius: Annotated[float, Field(gt=0)] = 1.0,
        rings: list[Annotated[int, Field(gt=0)]] = [1],  # noqa: B006
        fill: Literal["solid", "none"] = "none",
        label: str | dict[str, float] = "",
    ) -> None:
        self.center, self.radius, self.rings, self.fill, self.label = center, radius, rings, fill, label


@SHAPES.register("square")
class Square:
    def __init__(self, center: int, *, side: float) -> None:
        self.center, self.side = center, side


@SHAPES.register("disc")
class Disc(Circle):
    def __init__(self, center: int, *, radius: Annotated[float, Field(gt=1)] = 2.0, **options: Any) -> None:
        super().__init__(center, radius=radius, **options)


def test_options_stand_for_those_of_the_base_class() -> None:
    built = SHAPES.build({"name": "disc", "rings": ["3"]}, 7)
    assert (built.radius, built.rings) == (2.0, [3])
    with pytest.raises(KpnetError, match="radius: Input should be greater than 1"):  # the nearer class's own
        SHAPES.build({"name": "disc", "radius": 1}, 7)
    with pytest.raises(KpnetError, match="known here: fill, label, radius, rings"):
        SHAPES.build({"name": "disc", "side": 1}, 7)


def test_builds_from_a_name_or_a_mapping() -> None:
    plain = SHAPES.build("circle", 7)
    assert (plain.center, plain.radius, plain.rings) == (7, 1.0, [1])
    spec = {"name": "circle", "radius": "2.5", "rings": [1, 2]}  # 2.5 may come as text from a command line
    built = SHAPES.build(spec, 7)
    assert (built.radius, built.rings) == (2.5, [1, 2])
    assert "name" in spec  # the caller's mapping is left alone


def test_only_what_was_set_is_passed() -> None:
    assert check_options(Circle, {"radius": 2}, "circle") == {"radius": 2.0}
    assert check_options(Circle, {}, "circle") == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("circl", 'unknown shape "circl" (did you mean "circle"?); there are: circle, disc, square'),
        ("zzz", 'unknown shape "zzz"; there are: circle, disc, square'),
        ({"nme": "circle"}, 'shape: expected a name or a mapping with a "name"'),
        ({"name": 3}, 'shape: expected a name or a mapping with a "name"'),
        ({"name": "circle", "raduis": 2}, 'shape "circle": unknown key "raduis" (did you mean "radius"?); known here:'),
        ({"name": "circle", "center": 2}, 'unknown key "center"'),  # a positional one is not the user's to set
        ({"name": "circle", "radius": "big"}, 'shape "circle": radius: '),
        ({"name": "circle", "radius": 0}, 'shape "circle": radius: Input should be greater than 0, found 0'),
        ({"name": "circle", "rings": [1, -2]}, "rings.1: Input should be greater than 0, found -2"),
        ({"name": "circle", "rings": 3}, "rings: Input should be a valid list, found 3"),
        ({"name": "circle", "fill": "dots"}, "fill: Input should be 'solid' or 'none', found 'dots'"),
        ({"name": "circle", "label": 3}, 'shape "circle": label: '),  # no "label.str": that is no key of the user's
        ({"name": "circle", "label": {"x": "y"}}, 'shape "circle": label: '),
        ("square", 'shape "square": "side" is missing'),
    ],
)
def test_what_is_wrong_is_named_in_one_line(spec: object, message: str) -> None:
    with pytest.raises(KpnetError) as caught:
        SHAPES.build(spec, 0)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_is_taken_once() -> None:
    registry: Registry[type] = Registry("shape")
    registry.register("circle")(Circle)
    with pytest.raises(KpnetError, match='shape "circle" is registered already, by Circle'):
        registry.register("circle")(Square)
    assert registry["circle"] is Circle


def test_kpnet_error_is_a_value_error() -> None:
    assert issubclass(KpnetError, ValueError)


def test_nearest() -> None:
    assert did_you_mean("relo", ["relu", "tanh"]) == ' (did you mean "relu"?)'
    assert did_you_mean("zzz", ["relu", "tanh"]) == ""
    assert did_you_mean(3, []) == ""
