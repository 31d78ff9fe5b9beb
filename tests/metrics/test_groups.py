"""Groups of a skeleton's points, and their measures."""

from __future__ import annotations

import pytest
from support.four_points import PAIR, SIZE, by_numpy, example

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.metrics import evaluate_points


def test_groups_of_a_skeleton() -> None:
    face = Skeleton.load("facial15").group_indices
    assert {name: len(indices) for name, indices in face.items()} == {"eye": 6, "eyebrow": 4, "nose": 1, "mouth": 4}
    assert sorted(k for indices in face.values() for k in indices) == list(range(15))
    assert PAIR.group_indices == {"eye": [0, 1], "nose": [2], "chin": [3]}
    assert Skeleton(("leftEarTop", "rightEarTop", "Tail")).group_indices == {"ear": [0, 1], "tail": [2]}
    # No two together, no two apart, nothing but a side.
    for names in (("0", "1"), ("kp_0", "kp_1"), ("left", "right", "nose"), ("nose",)):
        assert Skeleton(names).group_indices == {}
    own = Skeleton.load({"names": ["a", "b", "c"], "groups": {"x": ["c", "a"], "all": ["a", "b", "c"]}})
    assert own.group_indices == {"x": [2, 0], "all": [0, 1, 2]}
    none = Skeleton.load({"names": PAIR.names, "groups": {}})
    assert none.group_indices == {}
    for skeleton in (own, none, PAIR):
        assert Skeleton.load(skeleton.to_dict()) == skeleton
        assert hash(Skeleton.load(skeleton.to_dict())) == hash(skeleton)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"x": ["a", "d"]}, 'skeleton: groups.x: unknown keypoint "d"'),
        ({"x": []}, "groups.x: expected different names, found \\[\\]"),
        ({"x": ["a", "a"]}, "groups.x: expected different names, found \\['a', 'a'\\]"),
        ({"x": "a"}, "groups.x: .*list"),
        (["a"], "groups: .*dict"),
    ],
)
def test_bad_groups(groups: object, message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        Skeleton.load({"names": ["a", "b", "c"], "groups": groups})
    assert "\n" not in str(caught.value)


def test_a_groups_measures_are_those_of_its_points_alone() -> None:
    predicted, target, visible = example(20)
    skeleton = Skeleton(PAIR.names, groups={"low": ("nose", "chin"), "mixed": ("chin", "left_eye")})
    found = evaluate_points(predicted, target, visible, skeleton, SIZE)
    assert found["per_group"].keys() == {"low", "mixed"}
    for name, indices in skeleton.group_indices.items():
        alone = by_numpy(predicted[:, indices], target[:, indices], visible[:, indices], pair=False)
        assert found["per_group"][name] == pytest.approx({key: alone[key] for key in found["per_group"][name]})
