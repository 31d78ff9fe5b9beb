"""Names, pairs and what a user may get wrong in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.core.yaml import write_yaml

FACE = ("left_eye", "nose", "right_eye")


def test_facial15() -> None:
    face = Skeleton.load("facial15")
    assert len(face) == 15
    assert face.name == "facial15"
    assert len(face.pairs) == 6
    # Its pairs are those that the names tell, and unpaired points stay where they are.
    assert set(face.pairs) == set(Skeleton.from_names(face.names).pairs)
    moved = {face.names[k]: face.names[j] for k, j in enumerate(face.flip_permutation)}
    assert moved["left_eye_outer_corner"] == "right_eye_outer_corner"
    assert [n for n, other in moved.items() if n == other] == [
        "nose_tip",
        "mouth_center_top_lip",
        "mouth_center_bottom_lip",
    ]


@given(st.integers(1, 12), st.integers(0, 6), st.randoms())
def test_the_flip_permutation_is_an_involution(count: int, pairs: int, random) -> None:  # type: ignore[no-untyped-def]
    names = [f"p{k}" for k in range(count)]
    shuffled = random.sample(names, count)
    skeleton = Skeleton(tuple(names), tuple(zip(shuffled[0::2], shuffled[1::2], strict=False))[:pairs])
    permutation = skeleton.flip_permutation
    assert sorted(permutation) == list(range(count))
    assert [permutation[k] for k in permutation] == list(range(count))
    for a, b in skeleton.pairs:
        assert permutation[names.index(a)] == names.index(b)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["left_eye", "right_eye"], [("left_eye", "right_eye")]),
        (["right_eye", "left_eye"], [("left_eye", "right_eye")]),  # (left, right), whatever the order
        (["mouth_left_corner", "mouth_right_corner"], [("mouth_left_corner", "mouth_right_corner")]),
        (["eye-L", "eye-R"], [("eye-L", "eye-R")]),
        (["l wrist", "r wrist"], [("l wrist", "r wrist")]),
        (["hip.l", "hip.r"], [("hip.l", "hip.r")]),
        (["Left Ear", "Right Ear"], [("Left Ear", "Right Ear")]),
        (["left_eye", "nose"], []),  # without its partner
        (["ball", "roar", "lefty", "righty"], []),  # letters inside a word say nothing
    ],
)
def test_pairs_from_names(names: list[str], pairs: list[tuple[str, str]]) -> None:
    assert list(Skeleton.from_names(names).pairs) == pairs
    assert Skeleton.load(names).pairs == tuple(pairs)


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    for skeleton in (
        Skeleton.load("facial15"),
        Skeleton(
            FACE, (("left_eye", "right_eye"),), (("left_eye", "nose"),), ("left_eye", "nose"), (0.1, 0.2, 0.3), "x"
        ),
        Skeleton(("0", "1e3")),
    ):
        assert Skeleton.load(skeleton) is skeleton
        assert Skeleton.load(skeleton.to_dict()) == skeleton
        path = tmp_path / "x.yaml"
        path.write_text(write_yaml(skeleton.to_dict()))
        loaded = Skeleton.load(path)
        assert loaded.to_dict() == {**skeleton.to_dict(), "name": skeleton.name or "x"}


def test_numbers_are_names_too() -> None:
    assert Skeleton.load({"names": [1, 2], "pairs": [[1, 2]]}).flip_permutation == [1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": []}, "no keypoint names"),
        ({"names": ["a", "b", "a"]}, "appear twice: a"),
        ({"names": "abc"}, "names: .*list"),
        ({"names": 5}, "names: .*list"),
        ({"pairs": []}, '"names" is missing'),
        ({"names": FACE, "pairs": [["left_eye", "rigth_eye"]]}, '"rigth_eye" \\(did you mean "right_eye"'),
        ({"names": FACE, "pairs": [["left_eye"]]}, "pairs.0"),
        ({"names": FACE, "pairs": ["left_eye", "right_eye"]}, "pairs.0: .*tuple"),
        ({"names": FACE, "pairs": 3}, "pairs: .*list"),
        ({"names": FACE, "pairs": [["left_eye", "nose"], ["nose", "right_eye"]]}, "is in two pairs"),
        ({"names": FACE, "pairs": [["nose", "nose"]]}, "is in two pairs"),
        ({"names": FACE, "edges": [["nose", "mouth"]]}, 'edges: unknown keypoint "mouth"'),
        ({"names": FACE, "nme": ["nose", "mouth"]}, 'nme: unknown keypoint "mouth"'),
        ({"names": FACE, "nme": "nose"}, "nme: "),
        ({"names": FACE, "sigmas": [0.1]}, "1 sigmas for 3 keypoints"),
        ({"names": FACE, "sigmas": ["x", 1, 1]}, "sigmas.0: .*number"),
        ({"names": FACE, "pair": []}, 'unknown key "pair" \\(did you mean "pairs"'),
        ("facial16", 'unknown skeleton "facial16" \\(did you mean "facial15"'),
        ("gone.yaml", "gone.yaml: no such skeleton file"),
    ],
)
def test_bad_skeletons(values: object, message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        Skeleton.load(values)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["names: [a", "- a\n- b", "just words", ""])
def test_bad_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(KpnetError, match="bad") as caught:
        Skeleton.load(path)
    assert "\n" not in str(caught.value)


def test_a_name_with_a_side_and_no_partner_is_told() -> None:
    """A mirror would make it wrong: what was the left ear is the right one."""
    assert Skeleton.from_names(["eye_left", "eye_right", "LeftEar", "RightEar"]).unpaired_sides == []
    assert Skeleton.from_names(["eye_left", "eye_right", "left_ear", "nose"]).unpaired_sides == ["left_ear"]
    assert Skeleton.load("facial15").unpaired_sides == []


@pytest.mark.parametrize(
    ("name", "count", "unpaired"),
    [("facial15", 15, 3), ("ibug68", 68, 10), ("coco17", 17, 1), ("mouse4", 4, 2), ("cat28", 28, 6)],
)
def test_shipped(name: str, count: int, unpaired: int) -> None:
    skeleton = Skeleton.load(name)
    assert len(skeleton) == count
    assert count - 2 * len(skeleton.pairs) == unpaired
    assert skeleton.can_mirror
    assert skeleton.edges
    assert skeleton.nme
    assert Skeleton.load(skeleton.to_dict()) == skeleton
    assert Skeleton.of_names(skeleton.names) is Skeleton.of_names(list(skeleton.names))
    assert Skeleton.of_names(skeleton.names) == skeleton
    # Mirroring takes every edge to an edge.
    mirror = dict(zip(skeleton.names, [skeleton.names[k] for k in skeleton.flip_permutation], strict=True))
    edges = {frozenset(edge) for edge in skeleton.edges}
    assert {frozenset(mirror[point] for point in edge) for edge in edges} == edges


def test_other_names_are_no_shipped_skeleton() -> None:
    assert Skeleton.of_names(["tailbase", "snout", "leftear", "rightear"]).name is None


def test_cocos_sigmas_are_the_published_ones() -> None:
    from pycocotools.cocoeval import Params

    sigmas = Skeleton.load("coco17").sigmas
    assert sigmas is not None
    assert np.allclose(sigmas, Params("keypoints").kpt_oks_sigmas)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"names": FACE, "nme": "bxo"}, "nme"),
        ({"names": FACE, "means": {"nose": ["left_eye"]}}, "means.nose: it is one of the names already"),
        ({"names": FACE, "means": {"eyes": ["left_eye", "rigth_eye"]}}, 'means.eyes: unknown keypoint "rigth_eye"'),
        ({"names": FACE, "means": {"eyes": []}}, "means.eyes: expected different names"),
    ],
)
def test_bad_means_and_lengths(values: object, message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        Skeleton.load(values)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_groups_are_those_given_or_by_the_first_word_without_a_side() -> None:
    names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    assert Skeleton(names).group_indices == {"eye": [0, 1], "nose": [2], "mouth": [3, 4]}
    assert Skeleton(names, groups={"upper": ("nose", "left_eye")}).group_indices == {"upper": [2, 0]}
    assert Skeleton(("left", "right", "nose")).group_indices == {}
    assert Skeleton(("eye_a", "eye_b")).group_indices == {}


def test_skeletons_are_keys_of_a_dict() -> None:
    values = {"names": FACE, "groups": {"eyes": ["left_eye"]}, "means": {"middle": ["left_eye", "nose"]}}
    assert {Skeleton.load(values): 1}[Skeleton.load(values)] == 1
