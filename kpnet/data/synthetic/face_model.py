"""A small linear 3-D face model and its drawing, for `SyntheticFaces` and `SyntheticClips`.

Units of the head: x to the subject's left, y down, z out of the face; the head is about 0.8 wide to each side. All
vertices, the 15 keypoints among them, are a mean plus weighted deformations, so that a keypoint stays on its feature.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from kpnet import coordinates

_SUPERSAMPLING = 4
_SHIFT = 4  # fractional bits of cv2's fixed-point coordinates

# Standard deviations of the deformations, in head units.
DEFORMATIONS = {
    "eye_apart": 0.025, "eye_height": 0.03, "eye_width": 0.02, "eye_open": 0.018,
    "brow_height": 0.03, "brow_inner": 0.025, "brow_outer": 0.03, "brow_length": 0.03, "brow_arch": 0.02,
    "nose_length": 0.04, "nose_width": 0.02,
    "mouth_height": 0.03, "mouth_width": 0.045, "lip_upper": 0.012, "lip_lower": 0.015, "mouth_open": 0.05,
    "smile": 0.035, "hairline": 0.06,
}  # fmt: skip
_MIRROR = np.array([-1, 1, 1])


def _arc(start: np.ndarray, middle: np.ndarray, end: np.ndarray, n: int = 9) -> np.ndarray:
    """Return a parabola (n, 3) from start through middle to end."""
    t = np.linspace(0, 1, n)[:, None]
    return (1 - t) * start + t * end + 4 * t * (1 - t) * (middle - (start + end) / 2)


def _ring(center: np.ndarray, rx: float, ry: float, n: int = 16) -> np.ndarray:
    """Return an ellipse (n, 3) that is parallel to the image plane of a frontal face."""
    angle = np.arange(n) * (2 * np.pi / n)
    return center + np.stack([rx * np.cos(angle), ry * np.sin(angle), np.zeros(n)], axis=1)


def _across(left: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return a parabola (13, 3) from a point on the left through one on the midline to the first one's mirror image."""
    return _arc(left, middle, left * _MIRROR, 13)


def _between(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return np.concatenate([upper, lower[::-1]])


def _half_face(w: dict[str, float]) -> dict[str, np.ndarray]:
    """Return polygons and keypoints of the subject's left half (x > 0)."""
    p = np.array
    x, y, half = 0.38 + w["eye_apart"], -0.2 + w["eye_height"], 0.185 + w["eye_width"]
    inner, outer = p([x - half, y + 0.01, 0.62]), p([x + half, y, 0.48])
    center = p([x, y, 0.62])
    top, bottom = p([x, y - 0.105 - w["eye_open"], 0.66]), p([x, y + 0.075 + w["eye_open"], 0.64])
    lid = _arc(inner, top, outer)
    crease = _arc(inner + p([0, -0.02, 0]), top + p([0, -0.045, 0]), outer + p([0.02, -0.01, 0]))
    brow_y = y - 0.23 + w["brow_height"]
    brow_inner = p([0.15 + w["eye_apart"], brow_y + w["brow_inner"], 0.70])
    brow_outer = p([0.66 + w["brow_length"], brow_y + 0.03 + w["brow_outer"], 0.42])
    brow = _arc(brow_inner, (brow_inner + brow_outer) / 2 + p([0, -0.09 - w["brow_arch"], 0.08]), brow_outer)
    thickness = np.linspace(0.045, 0.018, len(brow))[:, None] * p([0, 1, 0])
    nose_y, wing = 0.27 + w["nose_length"], 0.15 + w["nose_width"]
    wing_end = p([wing - 0.03, nose_y + 0.08, 0.76])
    return {
        "eye": _between(lid, _arc(inner, bottom, outer)),
        "lid": _between(crease, lid),
        "iris": _ring(center, 0.085, 0.085),
        "pupil": _ring(center, 0.042, 0.042),
        "brow": _between(brow - thickness, brow + thickness),
        "nostril": _ring(p([0.07 + w["nose_width"] / 2, nose_y + 0.09, 0.86]), 0.04, 0.022),
        "wing": _between(
            _arc(p([wing - 0.02, nose_y - 0.09, 0.76]), p([wing + 0.03, nose_y, 0.74]), wing_end),
            _arc(p([wing - 0.03, nose_y - 0.09, 0.78]), p([wing, nose_y, 0.78]), wing_end - p([0.01, 0.01, -0.02])),
        ),
        "bridge": _arc(p([0.09, y - 0.06, 0.70]), p([0.06, y + 0.12, 0.80]), p([0.09, nose_y - 0.08, 0.84])),
        "ear": _ring(p([0.83, 0.0, -0.08]), 0.10, 0.22),
        "lens": _ring(center + p([0.01, 0.03, 0.12]), 0.25, 0.21),
        "temple": np.stack([center + p([0.26, 0.0, 0.1]), p([0.84, y, 0.0])]),
        "keypoints": np.stack([center, inner, outer, brow_inner, brow_outer]),
    }


def _middle(w: dict[str, float]) -> dict[str, np.ndarray]:
    """Return polygons and keypoints on the face's midline, and the mouth's corners (left, right)."""
    p = np.array
    tip = p([0, 0.27 + w["nose_length"], 1.0])
    y = 0.6 + w["mouth_height"] + w["nose_length"] / 2
    left = p([0.3 + w["mouth_width"], y - w["smile"], 0.62])
    top = p([0, y - 0.085 - w["lip_upper"], 0.80])
    lower = p([0, y + 0.02 + w["mouth_open"], 0.77])
    bottom = lower + p([0, 0.09 + w["lip_lower"], 0.01])
    upper = p([0, y - 0.005, 0.78])
    inner = left * 0.95 + upper * 0.05
    hair_x = np.linspace(-0.78, 0.78, 11)
    hair_y = -0.74 + w["hairline"] + 0.5 * hair_x**4
    shoulder = p([[0.4, 1.3, -0.3], [1.5, 1.6, -0.4], [1.9, 4, -0.4]])
    throat = p([[0.42, 0.5, -0.3], [0.46, 1.5, -0.4]])
    return {
        "lips": _between(_across(left, top), _across(left, bottom)),
        "mouth": _between(_across(inner, upper), _across(inner, lower)),
        "chin": _across(p([0.16, bottom[1] + 0.12, 0.62]), bottom + p([0, 0.09, -0.08])),
        "tip": _ring(tip, 0.055, 0.05),
        "under_nose": _between(
            _across(tip + p([0.13, 0.07, -0.2]), tip + p([0, 0.085, -0.06])),
            _across(tip + p([0.13, 0.08, -0.2]), tip + p([0, 0.15, -0.14])),
        ),
        "fringe": _between(
            np.stack([hair_x, hair_y, 0.62 - 0.75 * hair_x**2], axis=1),
            np.stack([hair_x * 1.06, -1.22 + 0.75 * hair_x**2, np.full(11, 0.05)], axis=1),
        ),
        "neck": _between(throat, throat * _MIRROR),
        "shoulders": _between(shoulder, shoulder * _MIRROR),
        "keypoints": np.stack([tip, left, left * _MIRROR, top, bottom]),
    }


@functools.cache
def _template() -> tuple[np.ndarray, np.ndarray, dict[str, slice]]:
    """Return the mean (M, 3), the displacement by each deformation at one standard deviation (D, M, 3), and slices.

    The slices say which vertices belong to each part.
    """
    zero = dict.fromkeys(DEFORMATIONS, 0.0)
    parts = _parts(zero)
    mean = np.concatenate(list(parts.values()))
    moved = [np.concatenate(list(_parts(zero | {name: size}).values())) for name, size in DEFORMATIONS.items()]
    ends = np.cumsum([len(part) for part in parts.values()])
    slices = {name: slice(int(end) - len(parts[name]), int(end)) for name, end in zip(parts, ends, strict=True)}
    return mean, np.stack(moved) - mean, slices


def _parts(w: dict[str, float]) -> dict[str, np.ndarray]:
    """Return all polygons by name, with `left_` or `right_` where there are two, and facial15's `keypoints` (15, 3)."""
    half, middle = _half_face(w), _middle(w)
    left, ends = half.pop("keypoints"), middle.pop("keypoints")
    right = left * _MIRROR
    points = [left[0], right[0], left[1], left[2], right[1], right[2], left[3], left[4], right[3], right[4], *ends]
    parts = {f"left_{name}": part for name, part in half.items()}
    parts |= {f"right_{name}": part * _MIRROR for name, part in half.items()}
    return parts | middle | {"keypoints": np.stack(points)}


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Return the 3x3 rotation by angles in radians.

    Yaw turns the nose to the image's right, pitch turns it down, and roll is clockwise.
    """
    (cy, cp, cr), (sy, sp, sr) = np.cos((yaw, pitch, roll)), np.sin((yaw, pitch, roll))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return tilt @ nod @ turn


@dataclass
class Tones:
    """The grey values of a drawn person, 0 to 255."""

    skin: float = 180
    hair: float = 50
    iris: float = 70
    pupil: float = 12
    nose_tip: float = 220
    lips: float = 120
    cloth: float = 100


class Face:
    """A face in an image, under weak perspective.

    It is centred on the image, moved by `shift`, and then inwards where a keypoint would leave the image.

    Args:
        size: Height and width of the image in pixels.
        weights: Weight of each deformation in standard deviations, float (D,).
        turn: 3x3 rotation.
        scale: Pixels in a unit of the head.
        shift: x and y in pixels.

    Attributes:
        keypoints: Float64 (15, 2) in pixels.
    """

    def __init__(
        self, size: int, weights: np.ndarray, turn: np.ndarray, scale: float, shift: tuple[float, float] = (0, 0)
    ) -> None:
        mean, basis, self._slices = _template()
        vertices = mean + np.tensordot(weights, basis, 1)
        self.scale = scale
        self._turn = turn[:2] * scale
        xy = vertices @ self._turn.T
        points = xy[self._slices["keypoints"]]
        low, high = points.min(0), points.max(0)
        margin = 0.03 * size
        wanted = (size - 1) / 2 + np.asarray(shift) - (low + high) / 2
        self.origin = np.clip(wanted, margin - low, size - 1 - margin - high)
        self._xy = xy + self.origin
        self.keypoints = self._xy[self._slices["keypoints"]]

    def part(self, name: str) -> np.ndarray:
        """Return the vertices (n, 2) of a polygon in pixels."""
        return self._xy[self._slices[name]]

    def ellipsoid(self, center: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        """Return the outline (n, 2) in pixels of an ellipsoid of the head."""
        (a, b), (_, d) = (axes := self._turn * radii) @ axes.T
        lower = np.array([[a, 0.0], [b, np.sqrt(a * d - b * b)]]) / np.sqrt(a)
        return _CIRCLE @ lower.T + self._turn @ center + self.origin


_CIRCLE = np.stack([np.cos(np.arange(40) * np.pi / 20), np.sin(np.arange(40) * np.pi / 20)], axis=1)


class Canvas:
    """A grey image to draw on. It is drawn at a multiple of its size, but all coordinates are its own pixels.

    Args:
        size: Height and width in pixels.
        background: Uint8 (h, w) of any size, stretched over the image.
    """

    def __init__(self, size: int, background: np.ndarray) -> None:
        self.size = size
        fine = size * _SUPERSAMPLING
        self._fine = cv2.resize(background, (fine, fine), interpolation=cv2.INTER_LINEAR)
        (self._zoom, _, self._offset), _ = coordinates.resize_matrix((size, size), (fine, fine)) * (1 << _SHIFT)

    def _fixed(self, xy: np.ndarray) -> np.ndarray:
        return np.rint(xy * self._zoom + self._offset).astype(np.int32)

    def fill(self, xy: np.ndarray, value: float) -> None:
        """Fill a polygon (n, 2)."""
        cv2.fillPoly(self._fine, [self._fixed(xy)], value, cv2.LINE_8, _SHIFT)

    def line(self, xy: np.ndarray, value: float, width: float, *, closed: bool = False) -> None:
        """Draw a polyline (n, 2) with round ends, `width` pixels wide."""
        thickness = max(1, round(width * _SUPERSAMPLING))
        cv2.polylines(self._fine, [self._fixed(xy)], closed, value, thickness, cv2.LINE_8, _SHIFT)

    def image(self) -> np.ndarray:
        """Return the image, uint8 (size, size)."""
        return cv2.resize(self._fine, (self.size, self.size), interpolation=cv2.INTER_AREA)


# The ellipsoids of hair and skin: centre and radii in head units.
_HAIR = (0, -0.40, -0.22), (0.93, 0.88, 0.9)
_SKIN = ((0, -0.22, -0.10), (0.83, 0.86, 0.85)), ((0, 0.28, 0.02), (0.70, 0.82, 0.66))


def head_outlines(face: Face) -> list[np.ndarray]:
    """Return polygons (n, 2) in pixels that together cover what `draw_face` draws of a head without long hair."""
    ears = [face.part("left_ear"), face.part("right_ear")]
    return [face.ellipsoid(*_HAIR), *(face.ellipsoid(*each) for each in _SKIN), *ears, face.part("fringe")]


def draw_face(
    canvas: Canvas, face: Face, tones: Tones, *, long_hair: bool = False, fringe: bool = True, bust: bool = True
) -> None:
    """Draw a person from back to front; without `bust`, the head alone."""
    fill, part, skin = canvas.fill, face.part, tones.skin
    if long_hair:
        fill(face.ellipsoid((0, 0.25, -0.45), (1.0, 1.25, 0.6)), tones.hair)
    if bust:
        fill(part("neck"), skin * 0.72)
        fill(part("shoulders"), tones.cloth)
    fill(face.ellipsoid(*_HAIR), tones.hair)
    for side in ("left_", "right_"):
        fill(part(side + "ear"), skin * 0.85)
    for each in _SKIN:
        fill(face.ellipsoid(*each), skin)
    if fringe:
        fill(part("fringe"), tones.hair)
    canvas.line(part("left_bridge"), skin * 0.86, face.scale * 0.05)
    canvas.line(part("chin"), skin * 0.85, face.scale * 0.05)
    fill(part("under_nose"), skin * 0.72)
    fill(part("tip"), tones.nose_tip)
    fill(part("lips"), tones.lips)
    fill(part("mouth"), tones.lips * 0.4)
    for side in ("left_", "right_"):
        fill(part(side + "wing"), skin * 0.72)
        fill(part(side + "nostril"), skin * 0.35)
        fill(part(side + "eye"), min(250, skin * 0.5 + 125))
        fill(part(side + "iris"), tones.iris)
        fill(part(side + "lid"), skin * 0.45)
        fill(part(side + "pupil"), tones.pupil)
        fill(part(side + "brow"), min(tones.hair, skin * 0.6))
