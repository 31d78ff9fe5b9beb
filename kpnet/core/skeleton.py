"""Keypoint names, left/right pairs, edges, groups and normalising lengths."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.files import expand_path
from kpnet.core.resources import shipped_skeletons
from kpnet.core.sides import SIDES, WORDS, find_pairs
from kpnet.core.validation import explain_validation_error
from kpnet.core.yaml import read_yaml

NME_LENGTHS = ("box", "diagonal")  # what NME may divide by besides the distance of two points


class SkeletonFile(BaseModel):
    """A skeleton: names of keypoints, and what is known about them."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, use_attribute_docstrings=True)
    names: list[str]
    """Names of the keypoints, in the order of the model's outputs."""
    pairs: list[tuple[str, str]] | None = None
    """(left, right) names, which swap when an image is mirrored."""
    edges: list[tuple[str, str]] | None = None
    """Pairs of names to connect in drawings."""
    nme: tuple[str, str] | Literal["box", "diagonal"] | None = None
    """Length that normalises the NME: two names, box or diagonal; null: the image's diagonal."""
    sigmas: list[float] | None = None
    """Constants of the object keypoint similarity (OKS), one per keypoint, as COCO defines them."""
    groups: dict[str, list[str]] | None = None
    """Names of keypoints by body part, for measures per group; null: derived from the names."""
    means: dict[str, list[str]] | None = None
    """Points derived as the mean of others, to compare with other skeletons."""
    name: str | None = None
    """Name of the skeleton, for messages."""


@dataclass(frozen=True)
class Skeleton:
    """Names of K keypoints, and how they behave when an image is mirrored, drawn or measured.

    Args:
        names: Names of the keypoints, in the order of the model's outputs.
        pairs: (left, right) names, which swap when an image is mirrored.
        edges: Pairs of names to connect in drawings.
        nme: Two names whose distance normalises the NME, or `"box"` or `"diagonal"`; None for the image's diagonal.
        sigmas: Constants of the object keypoint similarity (OKS), one per keypoint, as COCO defines them.
        name: Name of the skeleton, for messages.
        groups: Names of keypoints by body part, for measures per group; None derives them from the names.
        means: Points derived as the mean of others, to compare with other skeletons.

    Raises:
        KpnetError: If a name is unknown or appears twice, or lengths do not match.
    """

    names: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    nme: tuple[str, str] | str | None = None
    sigmas: tuple[float, ...] | None = None
    name: str | None = None
    groups: Mapping[str, tuple[str, ...]] | None = field(default=None, hash=False)
    means: Mapping[str, tuple[str, ...]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise KpnetError(f"{self._where}: it has no keypoint names")
        if len(set(self.names)) != len(self.names):
            twice = sorted(name for name, count in Counter(self.names).items() if count > 1)
            raise KpnetError(f"{self._where}: names appear twice: {', '.join(twice)}")
        known = frozenset(self.names)
        nme = [] if self.nme is None or isinstance(self.nme, str) else [self.nme]
        if isinstance(self.nme, str) and self.nme not in NME_LENGTHS:
            raise KpnetError(f'{self._where}: nme: expected two names, "box" or "diagonal", found "{self.nme}"')
        for key, groups in (("pairs", self.pairs), ("edges", self.edges), ("nme", nme)):
            for group in groups:
                if len(group) != 2:
                    raise KpnetError(f"{self._where}: {key}: expected two names, found {list(group)}")
                self._check_known(key, group, known)
        paired = [n for pair in self.pairs for n in pair]
        if len(set(paired)) != len(paired):
            raise KpnetError(f"{self._where}: pairs: a keypoint is in two pairs")
        if self.sigmas is not None and len(self.sigmas) != len(self.names):
            raise KpnetError(f"{self._where}: {len(self.sigmas)} sigmas for {len(self.names)} keypoints")
        for what, named in (("groups", self.groups), ("means", self.means)):
            for key, members in (named or {}).items():
                if not members or len(set(members)) != len(members):
                    raise KpnetError(f"{self._where}: {what}.{key}: expected different names, found {list(members)}")
                self._check_known(f"{what}.{key}", members, known)
        for key in self.means or ():
            if key in self.names:
                raise KpnetError(f"{self._where}: means.{key}: it is one of the names already")

    def _check_known(self, key: str, names: Sequence[str], known: Container[str]) -> None:
        for name in names:
            if name not in known:
                raise KpnetError(f'{self._where}: {key}: unknown keypoint "{name}"{did_you_mean(name, self.names)}')

    @property
    def _where(self) -> str:
        return f'skeleton "{self.name}"' if self.name else "skeleton"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def flip_permutation(self) -> list[int]:
        """For each point, the index of the one that takes its place in a mirrored image: (K,), its own inverse."""
        swap = {a: b for pair in self.pairs for a, b in (pair, pair[::-1])}
        index = {name: k for k, name in enumerate(self.names)}
        return [index[swap.get(name, name)] for name in self.names]

    @property
    def edge_indices(self) -> list[tuple[int, int]]:
        """Pairs of point indices that the edges connect."""
        index = {name: k for k, name in enumerate(self.names)}
        return [(index[a], index[b]) for a, b in self.edges]

    @property
    def group_indices(self) -> dict[str, list[int]]:
        """Indices of the points of each group.

        Without `groups`, points are grouped by the first word of the name that is not a side (eye, eyebrow, nose,
        mouth). There are no groups if that puts all points into one, or each into its own.
        """
        if self.groups is not None:
            return {key: [self.names.index(name) for name in members] for key, members in self.groups.items()}
        found: dict[str, list[int]] = {}
        for k, name in enumerate(self.names):
            words = [word.lower() for word in WORDS.split(name)]
            found.setdefault(next((word for word in words if word not in SIDES), ""), []).append(k)
        return found if 1 < len(found) < len(self) and "" not in found else {}

    @classmethod
    def from_names(cls, names: Sequence[str], name: str | None = None) -> Skeleton:
        """Build a skeleton from names alone, with the left/right pairs that are certain from them.

        Sides are the words left and right and the letters L and R, as `kpnet.core.sides.find_pairs` finds them:
        `left_eye`, `EyeLeft`, `eye_l`, `LHip`, `forelegL4`, `paw_LF`.

        Args:
            names: Names of the keypoints.
            name: Name of the skeleton.

        Returns:
            The skeleton, with pairs and nothing else.
        """
        return cls(tuple(names), tuple(find_pairs(names).certain), name=name)

    @classmethod
    def of_names(cls, names: Sequence[str]) -> Skeleton:
        """Return the shipped skeleton with exactly these names in this order, or else `from_names`.

        Args:
            names: Names of the keypoints.

        Returns:
            The skeleton.
        """
        return _shipped().get(tuple(names)) or cls.from_names(names)

    @property
    def unpaired_sides(self) -> list[str]:
        """Names with a side but without a pair, whose labels a mirror would make wrong."""
        paired = {name for pair in self.pairs for name in pair}
        return [name for name in find_pairs(self.names).alone if name not in paired]

    @property
    def possible_pairs(self) -> list[tuple[str, str]]:
        """(left, right) names that may be a pair or not, which nobody has decided: no name of them is in a pair."""
        paired = {name for pair in self.pairs for name in pair}
        return [pair for pair in find_pairs(self.names).possible if not paired & set(pair)]

    @property
    def can_mirror(self) -> bool:
        """Whether left and right are known, so that labels can swap in a mirrored image."""
        return (bool(self.pairs) or len(self) == 1) and not self.unpaired_sides

    @classmethod
    def load(cls, spec: str | Path | Mapping[str, Any] | Sequence[str] | Skeleton) -> Skeleton:
        """Load a skeleton from a name, a file, a mapping or a list of names.

        Args:
            spec: A shipped name (`facial15`), a YAML file, a mapping with `names`, a list of names, or a skeleton,
                which is returned as it is.

        Returns:
            The skeleton.

        Raises:
            KpnetError: If there is no such skeleton or file, or its content is wrong.
        """
        if isinstance(spec, Skeleton):
            return spec
        if isinstance(spec, Mapping):
            return cls._from_mapping(spec, None)
        if not isinstance(spec, (str, Path)):
            return cls.from_names([str(n) for n in spec])
        shipped = shipped_skeletons()
        if str(spec).endswith((".yaml", ".yml")):
            path = Path(expand_path(spec))
            if not path.exists():
                raise KpnetError(f"{spec}: no such skeleton file")
        elif spec in shipped:
            path = shipped[str(spec)]
        else:
            raise KpnetError(
                f'unknown skeleton "{spec}"{did_you_mean(spec, shipped)}; shipped: {", ".join(shipped)}; '
                "or give a .yaml file or a list of names"
            )
        return cls._from_mapping(read_yaml(path, "a skeleton with names"), Path(spec).stem)

    @classmethod
    def _from_mapping(cls, values: Any, name: str | None) -> Skeleton:
        where = f'skeleton "{name}"' if name else "skeleton"
        if not isinstance(values, Mapping):
            raise KpnetError(f'{where}: expected a mapping with "names", found {type(values).__name__}')
        try:
            file = SkeletonFile.model_validate(dict(values))
        except ValidationError as error:
            raise KpnetError(explain_validation_error(error, where, SkeletonFile, values)) from None
        return cls(
            names=tuple(file.names),
            pairs=tuple(file.pairs or ()),
            edges=tuple(file.edges or ()),
            nme=file.nme,
            sigmas=None if file.sigmas is None else tuple(file.sigmas),
            groups=None if file.groups is None else {key: tuple(names) for key, names in file.groups.items()},
            means=None if file.means is None else {key: tuple(names) for key, names in file.means.items()},
            name=file.name or name,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, as a YAML or JSON file holds them; `Skeleton.load` reads them back.

        Returns:
            The fields that are set.
        """
        values: dict[str, Any] = {"names": list(self.names)}
        if self.pairs:
            values["pairs"] = [list(p) for p in self.pairs]
        if self.edges:
            values["edges"] = [list(e) for e in self.edges]
        if self.nme:
            values["nme"] = self.nme if isinstance(self.nme, str) else list(self.nme)
        if self.sigmas:
            values["sigmas"] = list(self.sigmas)
        for key, named in (("groups", self.groups), ("means", self.means)):
            if named is not None:
                values[key] = {name: list(members) for name, members in named.items()}
        if self.name:
            values["name"] = self.name
        return values


@functools.cache
def _shipped() -> dict[tuple[str, ...], Skeleton]:
    """Return the shipped skeletons, by their points."""
    return {skeleton.names: skeleton for skeleton in map(Skeleton.load, shipped_skeletons())}
