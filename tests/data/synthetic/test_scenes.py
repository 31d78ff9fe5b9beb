"""Drawn scenes: what is labelled is what is seen, faces overlap by at most a third, and the seed says all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.data import SyntheticScenes
from kpnet.data.build import build_splits
from kpnet.data.synthetic.face_model import Tones
from kpnet.data.synthetic.scenes import covered_points, draw_faces, place_faces
from kpnet.data.wrappers.scenes import Scenes


def test_images_of_0_to_6_faces() -> None:
    data = SyntheticScenes(60, size=96, seed=2)
    scenes = Scenes(data, (96, 96), 1)
    counts = [len(scenes.truth(index).points) for index in range(len(scenes))]
    assert len(scenes) == 60
    assert sum(counts) == len(data)
    assert set(Counter(counts)) == set(range(7))
    points = np.stack([data.keypoints_of(index) for index in range(len(data))])
    assert ((points > 0) & (points < 95)).all()
    sides = np.ptp(points, axis=1).max(-1)
    assert 2.4 < sides.max() / sides.min() < 4  # a factor of 3 in scale, and faces are not alike
    for index in (0, len(data) - 1):
        image, xy = data.read(index)
        assert image.shape == data.image_shape(index) == (96, 96)
        np.testing.assert_array_equal(xy, data.keypoints_of(index))
    assert [data.instance(i) for i in range(len(data))] == [k for n in counts for k in range(n)]


def test_the_seed_and_the_number_say_all() -> None:
    few, many = SyntheticScenes(4, size=64, seed=5), SyntheticScenes(9, size=64, seed=5)
    for number in range(4):
        np.testing.assert_array_equal(few.image(number), many.image(number))
    np.testing.assert_array_equal(few.keypoints_of(1), many.keypoints_of(1))
    assert not np.array_equal(few.image(0), SyntheticScenes(4, size=64, seed=6).image(0))


@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
@settings(max_examples=25)
def test_boxes_overlap_by_at_most_a_third(seed: int, count: int) -> None:
    faces = place_faces(np.random.default_rng(seed), 128, count)
    assert len(faces) <= count
    assert [face.scale for face in faces] == sorted(face.scale for face in faces)
    boxes = [np.array([*face.keypoints.min(0), *face.keypoints.max(0)]) for face in faces]
    for a, one in enumerate(boxes):
        for other in boxes[:a]:
            sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
            areas = [np.prod(box[2:] - box[:2]) for box in (one, other)]
            assert sides.prod() <= (sum(areas) - sides.prod()) / 3 + 1e-9
    assert all(covered.mean() <= 1 / 3 for covered in covered_points(faces))


def test_a_covered_point_is_where_the_nearer_head_is_seen() -> None:
    """Faces of two tones each over black: at a covered point the image is that of the nearer ones alone."""
    checked = 0
    for seed in range(20):
        faces = place_faces(np.random.default_rng(seed), 128, 5)
        tones = [Tones(skin=60.0 + 30 * k) for k in range(len(faces))]
        covered, black = covered_points(faces), np.zeros((128, 128), np.uint8)
        for far, hidden in enumerate(covered):
            whole, without = (
                draw_faces([faces[k] for k in kept], [tones[k] for k in kept], black, np.random.default_rng(0)).astype(
                    int
                )
                for kept in (range(len(faces)), [k for k in range(len(faces)) if k != far])
            )
            for k in range(15):
                x, y = faces[far].keypoints[k].round().astype(int)
                near = np.abs(whole - without)[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max()
                if hidden[k]:
                    inside = np.abs(whole - without)[y, x]
                    checked += inside <= 3
                    assert inside <= 3 or near > 3  # at the very edge of the nearer head
                else:
                    assert near > 3
    assert checked > 20


def test_hidden_points_are_labelled() -> None:
    data = SyntheticScenes(20, size=64, seed=1)
    levels = np.stack([data.visibility(index) for index in range(len(data))])
    assert set(np.unique(levels)) == {1, 2}
    assert data.labels().all()


def test_as_the_data_of_a_config() -> None:
    values = {"format": {"name": "synthetic_scenes", "size": 64, "faces": 3}, "train": 6, "val": 4}
    model = {"backbone": "conv_sandwich", "head": "heatmap", "in_channels": 1, "input_size": 32}
    config = load_config({"model": model, "data": values | {"crop": {"by": "instance", "shift": 0.1}}})
    train, val = build_splits(config, (0, 0))
    assert val is not None
    assert train[0]["image"].shape == val[0]["image"].shape == (1, 32, 32)
    assert train[0]["visible"].float().mean() > 0.7
    assert len(Scenes(train, (64, 64))) == 6
    assert not np.array_equal(train.read(0)[0], val.read(0)[0])


@pytest.mark.parametrize("options", [{"n": 0}, {"n": 3, "size": 32}, {"n": 3, "faces": 0}, {"n": 3, "faces": 100}])
def test_numbers_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(KpnetError, match=r"synthetic scenes: .* expected 1 to"):
        SyntheticScenes(**options)


def test_the_first_image_has_a_face() -> None:
    assert min(len(SyntheticScenes(1, seed=seed, size=64)) for seed in range(20)) >= 1
