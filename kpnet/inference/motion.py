"""Kalman filters of the instances of a video: a centre with a velocity, and the points about it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

ACCELERATION = (0.01, 0.05, 0.5)  # of the centre, in sizes per frame²: standard deviation at least, at first, at most
LEARNING = 0.1  # rate at which it follows the errors of an instance's predictions
SPEED = 0.3  # standard deviation of the speed of an instance that appears, in sizes per frame
DRIFT = 0.05  # standard deviation of the way of a point within its instance, in sizes per frame
DAMPING = 0.9  # share of its velocity that an unseen instance keeps in each frame
OUTLIER = 3.0  # standard deviations beyond which a point counts less
_STEP = np.kron([[1.0, 1], [0, 1]], np.eye(2))  # from x, y, velocity to those of the next frame
_JERK = np.kron([[0.25, 0.5], [0.5, 1]], np.eye(2))  # noise of an acceleration that is constant for a frame


@dataclass
class Motion:
    """The filters of M instances of K points.

    The points of an instance share one velocity and drift slowly about their centre, so that those that are seen carry
    along those that are hidden.

    Attributes:
        centre: Mean (M, 4) of x, y and the velocity in pixels per frame.
        centre_cov: Its covariance (M, 4, 4).
        shape: Points (M, K, 2) from the centre, in pixels.
        shape_cov: Their covariances (M, K, 2, 2).
        size: Root of the area (M,), in pixels.
        acceleration: Standard deviation (M,) of the centre's acceleration, in sizes per frame², as seen so far.
    """

    centre: np.ndarray
    centre_cov: np.ndarray
    shape: np.ndarray
    shape_cov: np.ndarray
    size: np.ndarray
    acceleration: np.ndarray

    @classmethod
    def start(cls, points: np.ndarray, noise: np.ndarray, size: np.ndarray) -> Motion:
        """Begin filters of instances that are seen for the first time.

        Args:
            points: Points (M, K, 2) in pixels; those that are not finite are not seen.
            noise: Their covariances (M, K, 2, 2).
            size: Roots of the areas (M,) in pixels.
        """
        seen = _seen(points, noise)
        wide = np.eye(2) * np.square(size)[:, None, None, None]
        noise = np.where(seen[..., None, None], noise, wide)
        weight = np.where(seen[..., None, None], np.linalg.inv(noise), 0)
        covariance = np.linalg.inv(weight.sum(1))
        centre = np.zeros((len(points), 4))
        points = np.where(seen[..., None], points, 0)
        centre[:, :2] = (covariance @ (weight @ points[..., None]).sum(1))[..., 0]
        centre_cov = np.zeros((len(points), 4, 4))
        centre_cov[:, :2, :2] = covariance
        centre_cov[:, 2:, 2:] = np.eye(2) * np.square(SPEED * size)[:, None, None]
        shape = np.where(seen[..., None], points - centre[:, None, :2], 0)
        return cls(centre, centre_cov, shape, noise, size, np.full(len(points), ACCELERATION[1]))

    def __len__(self) -> int:
        return len(self.centre)

    def keep(self, rows: np.ndarray) -> Motion:
        """Return the filters of some instances, indices or a mask."""
        return Motion(*(getattr(self, each.name)[rows] for each in fields(self)))

    def join(self, other: Motion) -> Motion:
        """Return these filters and others."""
        return Motion(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def restart(self, row: int, points: np.ndarray, noise: np.ndarray, size: np.ndarray) -> None:
        """Begin the filter of an instance anew, elsewhere; arguments as in `start`, for one instance."""
        other = Motion.start(points, noise, size)
        for each in fields(self):
            getattr(self, each.name)[row] = getattr(other, each.name)[0]

    def predict(self, unseen: np.ndarray) -> None:
        """Go on by a frame; the velocity of the instances in the mask `unseen` (M,) fades."""
        area = np.square(self.size)[:, None, None]
        self.centre[unseen, 2:] *= DAMPING
        self.centre = self.centre @ _STEP.T
        self.centre_cov = (
            _STEP @ self.centre_cov @ _STEP.T + np.square(self.acceleration * self.size)[:, None, None] * _JERK
        )
        drift = self.shape_cov + DRIFT**2 * area[..., None] * np.eye(2)
        most = area[:, 0] / np.maximum(
            area[:, 0], np.trace(drift, axis1=-2, axis2=-1)
        )  # a hidden point stays on its instance
        self.shape_cov = drift * most[..., None, None]

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted points (M, K, 2) and their covariances (M, K, 2, 2)."""
        return self.centre[:, None, :2] + self.shape, self.centre_cov[:, None, :2, :2] + self.shape_cov

    def update(self, rows: np.ndarray, points: np.ndarray, noise: np.ndarray, size: np.ndarray) -> None:
        """Correct the filters of some instances by what is seen.

        Args:
            rows: Indices (N,) of the instances.
            points: Their points (N, K, 2) in pixels; those that are not finite are not seen.
            noise: Covariances (N, K, 2, 2) of the points.
            size: Roots of the areas (N,) in pixels.
        """
        seen = _seen(points, noise)
        shape, shape_cov = self.shape[rows], self.shape_cov[rows]
        moved = np.where(seen[..., None], points - shape, np.nan)
        apart = np.where(seen[..., None], moved - np.nanmedian(moved, 1, keepdims=True), 0)
        noise = np.where(seen[..., None, None], noise, np.eye(2))
        total = shape_cov + noise
        squared = (apart[..., None, :] @ np.linalg.solve(total, apart[..., None]))[..., 0, 0]
        noise = noise * np.maximum(1, squared / OUTLIER**2)[..., None, None]
        weight = np.where(seen[..., None, None], np.linalg.inv(shape_cov + noise), 0)
        found_cov = np.linalg.inv(weight.sum(1))
        found = (found_cov @ (weight @ np.where(seen[..., None], moved, 0)[..., None]).sum(1))[..., 0]
        before = self.centre_cov[rows]
        error = (found - self.centre[rows, :2])[..., None]
        certainty = np.linalg.inv(before[:, :2, :2] + found_cov)
        surprise = (error.swapaxes(1, 2) @ certainty @ error)[:, 0, 0] / 2  # 1 on average if the filter is right
        learnt = self.acceleration[rows] * np.exp(LEARNING * np.clip(surprise - 1, -1, 3))
        self.acceleration[rows] = np.clip(learnt, ACCELERATION[0], ACCELERATION[2])
        gain = before[:, :, :2] @ certainty
        self.centre[rows] += (gain @ error)[..., 0]
        self.centre_cov[rows] = before - gain @ before[:, :2]
        left = np.where(seen[..., None], points - shape - self.centre[rows][:, None, :2], 0)
        own = shape_cov @ np.linalg.inv(shape_cov + noise + self.centre_cov[rows][:, None, :2, :2])
        own = np.where(seen[..., None, None], own, 0)
        self.shape[rows] = shape + (own @ left[..., None])[..., 0]
        self.shape_cov[rows] = shape_cov - own @ shape_cov
        self.size[rows] = self.size[rows] ** 0.9 * size**0.1


def _seen(points: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return np.asarray(np.isfinite(points).all(-1) & np.isfinite(noise).all((-2, -1)))
