"""Paths of written images: each its own, also where upper and lower case are the same."""

from __future__ import annotations

from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset
from kpnet.data.formats.writing import write_images


class Named(KeypointDataset):
    """Images that have nothing but names."""

    skeleton = Skeleton(("a",))

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def image_name(self, index: int) -> str:
        return self.names[index]


def test_names_that_fall_together_are_counted_from_two() -> None:
    names = ["a/x", "a/X", "A/x", "a/x_4", "a/./x", "b/x"]
    found = [path.as_posix() for _, path, _ in write_images(Named(names), None)]
    assert found == ["a/x.png", "a/X_2.png", "a/x_3.png", "a/x_4.png", "a/x_5.png", "b/x.png"]
