"""Left/right pairs of keypoints from their names. Those that are certain are paired, and others are only listed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
# A side is a word of its own: between underscores, hyphens, dots, spaces, or where camelCase begins a word.
WORDS = re.compile(r"[_\-. ]+|(?<=[a-z])(?=[A-Z])")
# Where words may begin, too: `LHip`, `paw1LH`, `leg4L`, `L4`.
_FINER = re.compile(rf"{WORDS.pattern}|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")
_FULL = ("left", "right")
_CLUSTER = re.compile(r"[A-Z]{2,3}|[A-Za-z][a-z]")  # LH, FL, LFT, Lt: a side beside other letters
_REST = 3  # letters beside a glued `left` or `right`: lefteye, but not lefty
_SHORT_REST = 2  # letters beside a glued l or r: lhip, eyel
_SURE = 2  # pairs with a glued letter at the same end, so that they are no accident as `lip` and `rip`

Words = tuple[str, ...]
# A name's words to what they are on the other side, and whether the name is on the left; several if that is unclear.
Swap = Callable[[Words], Iterator[tuple[Words, bool]]]


@dataclass(frozen=True)
class SidePairs:
    """What names say about left and right.

    Attributes:
        certain: (left, right) names.
        possible: (left, right) names that may be a pair or not; none of them is in `certain`.
        alone: Names with a side, but without a partner.
    """

    certain: list[tuple[str, str]]
    possible: list[tuple[str, str]]
    alone: list[str]


def find_pairs(names: Sequence[str]) -> SidePairs:
    """Find the names that differ in left and right alone.

    Sides are the words left and right and the letters L and R: as words of their own (`left_eye`, `EyeLeft`, `eye_l`,
    `LHip`, `forelegL4`), in a group of two or three letters (`paw_LF`, `FL`), or glued to a word (`lefteye`; `lhip`
    if there are two such pairs). Where the names count, the numbers may differ (`paw1LH` and `paw4RH`).

    Args:
        names: Names of the keypoints.

    Returns:
        The pairs, in the order of their left names.
    """
    pairs: dict[str, str] = {}  # both ways
    left: set[str] = set()
    possible: list[tuple[str, str]] = []
    styles: set[str] = set()
    for style, swap in _STYLES.items():
        rest = [name for name in names if name not in pairs]
        found, unsure = _partners(rest, swap)
        possible += unsure
        if style.startswith("letter glued") and len(found) < _SURE:
            possible += found
            continue
        for one, other in found:
            pairs |= {one: other, other: one}
            left.add(one)
            styles.add(style)
    for one, other in _counted([name for name in names if name not in pairs]):
        pairs |= {one: other, other: one}
        left.add(one)
    certain = [(name, pairs[name]) for name in names if name in left]
    possible = [pair for pair in dict.fromkeys(possible) if not pairs.keys() & set(pair)]
    alone = [name for name in names if name not in pairs and _has_side(name, styles)]
    return SidePairs(certain, possible, alone)


def _has_side(name: str, styles: set[str]) -> bool:
    """Return whether a name without a partner has a side: in plain words, or as names that have a partner have it."""
    if any(word.lower() in SIDES for word in WORDS.split(name)):
        return True
    words = _split(name)
    return "words" in styles and len(words) > 2 and any(word.lower() in SIDES for word in words)


def _split(name: str) -> Words:
    return tuple(word for word in _FINER.split(name) if word)


def _all_words(words: Words) -> Iterator[tuple[Words, bool]]:
    """Yield the name with all its sides swapped, and whether its first side is left."""
    yield from _swapped(words, [k for k, word in enumerate(words) if word in SIDES])


def _full_words(words: Words) -> Iterator[tuple[Words, bool]]:
    yield from _swapped(words, [k for k, word in enumerate(words) if word in _FULL])


def _one_word(words: Words) -> Iterator[tuple[Words, bool]]:
    for k, word in enumerate(words):
        if word in SIDES:
            yield from _swapped(words, [k])


def _swapped(words: Words, places: list[int]) -> Iterator[tuple[Words, bool]]:
    if places:
        other = tuple(SIDES[word] if k in places else word for k, word in enumerate(words))
        yield other, words[places[0]].startswith("l")


def _in_cluster(words: Words) -> Iterator[tuple[Words, bool]]:
    """Yield the name with the first or last letter of a group of letters swapped."""
    for k, word in enumerate(words):
        if _CLUSTER.fullmatch(word):
            for at in (0, -1):
                yield from _letter_swapped(words, k, at)


def _glued_word(words: Words) -> Iterator[tuple[Words, bool]]:
    for k, word in enumerate(words):
        for side in _FULL:
            if len(word) >= len(side) + _REST and (word.startswith(side) or word.endswith(side)):
                at_start = word.startswith(side)
                new = SIDES[side] + word[len(side) :] if at_start else word[: -len(side)] + SIDES[side]
                yield (*words[:k], new, *words[k + 1 :]), side == "left"


def _glued_first(words: Words) -> Iterator[tuple[Words, bool]]:
    for k, word in enumerate(words):
        if len(word) > _SHORT_REST:
            yield from _letter_swapped(words, k, 0)


def _glued_last(words: Words) -> Iterator[tuple[Words, bool]]:
    for k, word in enumerate(words):
        if len(word) > _SHORT_REST:
            yield from _letter_swapped(words, k, -1)


def _letter_swapped(words: Words, k: int, at: int) -> Iterator[tuple[Words, bool]]:
    letter = words[k][at].lower()
    if letter in ("l", "r"):
        new = SIDES[letter] + words[k][1:] if at == 0 else words[k][:-1] + SIDES[letter]
        yield (*words[:k], new, *words[k + 1 :]), letter == "l"


# From the surest to the least sure. Groups of letters are in upper case, so they get words as they are.
_STYLES: dict[str, Swap] = {
    "words": _all_words,
    "word": _full_words,
    "letter": _one_word,
    "letter in a group": _in_cluster,
    "word glued": _glued_word,
    "letter glued first": _glued_first,
    "letter glued last": _glued_last,
}


def _lower(words: Words) -> Words:
    return tuple(word.lower() for word in words)


def _partners(names: Sequence[str], swap: Swap) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the (left, right) names that are each other's only partner, and those that have several."""
    as_written = swap is _in_cluster
    words = {name: _split(name) if as_written else _lower(_split(name)) for name in names}
    known: dict[Words, list[str]] = defaultdict(list)
    for name in names:
        known[_lower(words[name])].append(name)
    is_left: dict[tuple[str, str], bool] = {}
    partners: dict[str, list[str]] = {}
    for name in names:
        partners[name] = []
        for swapped, left in swap(words[name]):
            for partner in known.get(_lower(swapped), []):
                if partner != name and partner not in partners[name]:
                    partners[name].append(partner)
                    is_left[name, partner] = left
    found: list[tuple[str, str]] = []
    unsure: list[tuple[str, str]] = []
    for name, others in partners.items():
        for other in others:
            if not is_left[name, other]:
                continue
            alone = len(others) == 1 and partners[other] == [name]
            (found if alone else unsure).append((name, other))
    return found, unsure


def _counted(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the (left, right) names of lists that count through both sides, as paw1LH, paw2LF, paw3RF, paw4RH.

    The names count if they are at least four with one number each, all different, of one pattern, and if without
    the numbers all of them have one partner.
    """
    numbers: dict[str, list[int]] = {}
    patterns: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        words = _split(name)
        digits = [k for k, word in enumerate(words) if word.isdecimal()]
        if len(digits) != 1:
            continue
        numbers[name] = [int(words[digits[0]])]
        plain = tuple("?" if _is_side(word) else word.lower() for k, word in enumerate(words) if k not in digits)
        patterns[plain].append(name)
    pairs = []
    for group in patterns.values():
        counts = Counter(numbers[name][0] for name in group)
        if len(group) < 2 * _SURE or max(counts.values()) > 1:
            continue
        plain_names = {"_".join(word for word in _split(name) if not word.isdecimal()): name for name in group}
        found = find_pairs(list(plain_names)).certain if len(plain_names) == len(group) else []
        if len(found) * 2 == len(group):
            pairs += [(plain_names[one], plain_names[other]) for one, other in found]
    return pairs


def _is_side(word: str) -> bool:
    in_cluster = _CLUSTER.fullmatch(word) and {word[0].lower(), word[-1].lower()} & {"l", "r"}
    return word.lower() in SIDES or bool(in_cluster)
