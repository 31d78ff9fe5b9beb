"""What names say about left and right: the pairs that people mean, and none that they do not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import SHARED

from kpnet.core.sides import find_pairs
from kpnet.core.skeleton import Skeleton

# Styles of names in published data sets and tools, with the pairs that their authors mean.
STYLES: dict[str, tuple[str, str]] = {
    "coco": ("left_eye left_shoulder nose right_eye right_shoulder", "left_eye-right_eye left_shoulder-right_shoulder"),
    "words behind": ("EyeLeft EarLeft EyeRight EarRight", "EyeLeft-EyeRight EarLeft-EarRight"),
    "capitals": ("LEFT_EYE RIGHT_EYE NOSE", "LEFT_EYE-RIGHT_EYE"),
    "capital words": ("Left-Hip Right-Hip", "Left-Hip-Right-Hip"),
    "openpose": ("LHip LBigToe RHip RBigToe Neck", "LHip-RHip LBigToe-RBigToe"),
    "openpose, one": ("Nose REye LEye", "LEye-REye"),
    "human3.6m": ("rhip rknee lhip lknee spine", "lhip-rhip lknee-rknee"),
    "behind and glued": ("eyel eyer earl earr", "eyel-eyer earl-earr"),
    "letter first": ("l_eye r_eye l_ear r_ear", "l_eye-r_eye l_ear-r_ear"),
    "letter last": ("wingL wingR head", "wingL-wingR"),
    "letter with a dot": ("eye.L eye.R", "eye.L-eye.R"),
    "ap-10k": ("L_F_Elbow R_F_Elbow L_B_Elbow R_B_Elbow", "L_F_Elbow-R_F_Elbow L_B_Elbow-R_B_Elbow"),
    "flies": ("forelegL4 forelegR4 hindlegL4 hindlegR4", "forelegL4-forelegR4 hindlegL4-hindlegR4"),
    "legs with numbers": ("L1 L2 R1 R2", "L1-R1 L2-R2"),
    "number before": ("leg1L leg2L leg1R leg2R", "leg1L-leg1R leg2L-leg2R"),
    "mouse seen from below": ("paw1LH paw2LF paw3RF paw4RH", "paw1LH-paw4RH paw2LF-paw3RF"),
    "two letters": ("paw_LF paw_RF paw_LH paw_RH", "paw_LF-paw_RF paw_LH-paw_RH"),
    "two letters, side last": ("paw_FL paw_FR paw_HL paw_HR", "paw_FL-paw_FR paw_HL-paw_HR"),
    "rear": ("FL FR RL RR", "FL-FR RL-RR"),
    "rear, side first": ("LF RF LR RR", "LF-RF LR-RR"),
    "small letters": ("paw_lf paw_rf", "paw_lf-paw_rf"),
    "glued words": ("lefteye righteye leftear rightear", "lefteye-righteye leftear-rightear"),
    "glued words behind": ("eyeleft eyeright", "eyeleft-eyeright"),
    "a glued pair alone": ("leftknee rightknee tail", "leftknee-rightknee"),
    "medicine": ("Lt_kidney Rt_kidney", "Lt_kidney-Rt_kidney"),
    "two sides in a name": (
        "left_eye_left_corner left_eye_right_corner right_eye_left_corner right_eye_right_corner",
        "left_eye_left_corner-right_eye_right_corner left_eye_right_corner-right_eye_left_corner",
    ),
    "spaces": ("left hind paw;right hind paw", "left hind paw-right hind paw"),
    "in the middle": ("mouth_left_corner mouth_right_corner", "mouth_left_corner-mouth_right_corner"),
    "camel in the middle": ("innerLeftBrow innerRightBrow", "innerLeftBrow-innerRightBrow"),
    "nothing": ("nose tail back", ""),
    "letters inside words": ("ball roar lefty righty", ""),
    "vertebrae": ("L1 L2 L3 L4 L5 S1", ""),
    "numbers": ("0 1 2 3", ""),
    "lip and rip": ("lip rip nose", ""),
    "both letters may be sides": ("LL LR RL RR", ""),
    "one point in two styles": ("left_eye LeftEye right_eye", ""),
    "numbers that tell fingers apart": ("left_finger1 right_finger2 nose", ""),
    "two of a side": ("left_finger1 left_finger2 right_finger3 right_finger4", ""),
}
POSSIBLE: dict[str, str] = {
    "lip and rip": "lip-rip",
    "both letters may be sides": "LL-RL LL-LR LR-RR RL-RR",
    "one point in two styles": "left_eye-right_eye LeftEye-right_eye",
}


def joined(pairs: list[tuple[str, str]]) -> set[str]:
    return {"-".join(pair) for pair in pairs}


def listed(names: str) -> list[str]:
    return names.split(";") if ";" in names else names.split()


@pytest.mark.parametrize("style", STYLES)
def test_pairs_as_people_mean_them(style: str) -> None:
    names, expected = STYLES[style]
    for order in (listed(names), listed(names)[::-1]):
        found = find_pairs(order)
        wanted = {expected} - {""} if ";" in names or style == "capital words" else set(expected.split())
        assert joined(found.certain) == wanted
        assert joined(found.possible) == set(POSSIBLE.get(style, "").split())
        Skeleton.from_names(order)  # no point in two pairs


def test_a_point_without_its_partner_is_told() -> None:
    assert find_pairs(["wingL", "wingR", "eyeL", "head"]).alone == ["eyeL"]
    assert find_pairs(["legL1", "legR1", "legL2"]).alone == ["legL2"]
    assert find_pairs(["L4", "L5"]).alone == []
    assert Skeleton.from_names(["lip", "rip"]).possible_pairs == [("lip", "rip")]
    assert Skeleton(("lip", "rip", "a"), (("lip", "a"),)).possible_pairs == []


WORDS = st.sampled_from(["left", "right", "L", "R", "l", "r", "eye", "Eye", "paw", "1", "2", "LH", "RH", "_", "-", "é"])


@given(st.lists(st.lists(WORDS, min_size=1, max_size=4).map("".join), min_size=1, max_size=8, unique=True))
def test_any_names_give_a_skeleton(names: list[str]) -> None:
    found = find_pairs(names)
    paired = [name for pair in found.certain for name in pair]
    assert len(paired) == len(set(paired))
    assert not set(paired) & {name for pair in found.possible for name in pair}
    assert not set(paired) & set(found.alone)
    assert Skeleton.from_names(names).pairs == tuple(found.certain)


@pytest.mark.skipif(not (SHARED / "data" / "flies").is_dir(), reason="the data are not here")
def test_flies_and_mice() -> None:
    flies = json.loads((SHARED / "data" / "flies" / "train.json").read_text())["categories"][0]["keypoints"]
    found = find_pairs(flies)
    assert joined(found.certain) == {
        "wingL-wingR", "forelegL4-forelegR4", "midlegL4-midlegR4", "hindlegL4-hindlegR4", "eyeL-eyeR"}  # fmt: skip
    assert not found.possible
    assert not found.alone
    with (SHARED / "data" / "mirror_mouse" / "CollectedData.csv").open() as file:
        mice = list(dict.fromkeys(file.readlines()[1].strip().split(",")[1:]))
    found = find_pairs(mice)
    assert joined(found.certain) == {f"paw1LH_{v}-paw4RH_{v}" for v in ("top", "bot")} | {
        f"paw2LF_{v}-paw3RF_{v}" for v in ("top", "bot")
    }
    assert not found.possible
    assert not found.alone
