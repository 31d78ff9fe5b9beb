"""Mutations of values, bytes and texts, and small images and files to mutate."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np

TEXTS = (
    *("", " ", "x" * 5000, "\x1b[31mred", "\u202e", "a\nb", "é日本😀"),
    *[
        "nose",
        "[/b]",
        "$x$",
        "../../x",
        "~nobody",
        "$NOTHING",
        "%s",
        "nan",
        "inf",
        "-1",
        "1e309",
        "0x10",
        "1_0",
        "null",
        "None",
        "true",
        "2020-13-45",
        "{}",
        "[]",
        "/dev/null",
    ],
)
NUMBERS = (0, -1, 1, 2, 3.5, -0.0, 10**6, 2**31, 2**63, -(2**63), 10**30, 1e-300, 1e308, -1e308)
ODD: tuple[Any, ...] = (*TEXTS, *NUMBERS, float("nan"), float("inf"), None, True, False, [], {}, [[]], {"name": None})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in nested dicts and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def mutate_values(value: Any, random: Random) -> Any:
    """A copy with one value replaced, deleted, doubled or renamed."""
    value = copy.deepcopy(value)
    *path, last = random.choice([place for place in places(value) if place])
    held = value
    for key in path:
        held = held[key]
    action = random.choice(("replace", "replace", "replace", "delete", "double", "rename", "deep"))
    if action == "delete":
        del held[last]
    elif action == "double" and isinstance(held, list):
        held.append(copy.deepcopy(held[last]))
    elif action == "rename" and isinstance(held, dict):
        held[random.choice(TEXTS)] = held.pop(last)
    elif action == "deep":
        held[last] = nested(random.choice((3, 60)))
    else:
        held[last] = random.choice(ODD)
    return value


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """A copy with a few bytes changed, cut out or put in, or that ends early."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 5, 50))):
        at = random.randrange(len(changed) + 1)
        action = random.randrange(5)
        if action == 0:
            changed[at : at + 1] = bytes([random.randrange(256)])
        elif action == 1:
            del changed[at : at + random.choice((1, 10, 1000))]
        elif action == 2:
            changed[at:at] = random.choice(
                (b"\0", b"\xff\xfe", b"\n", b",", b";", b'"', b"9" * 400, b"-1", b"nan", b"\xe9")
            )
        elif action == 3:
            changed[at : at + 4] = random.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0"))
        elif random.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def mutate_text(text: str, random: Random, comma: str = ",") -> bytes:
    """The text as bytes, with a line or a cell changed, or in another encoding."""
    lines = text.splitlines()
    for _ in range(random.choice((0, 1, 1, 2))):
        at = random.randrange(len(lines)) if lines else 0
        action = random.randrange(8)
        if not lines:
            break
        if action == 0:
            del lines[at]
        elif action == 1:
            lines.insert(at, lines[random.randrange(len(lines))])
        elif action == 2:
            lines[at] = random.choice(TEXTS)
        elif action == 3:
            lines[at] += comma + random.choice(TEXTS)
        elif action == 4:
            lines[at] = lines[at].replace(comma, random.choice((";", "\t", " ", comma * 2)))
        else:
            cells = lines[at].split(comma)
            cells[random.randrange(len(cells))] = str(random.choice((*TEXTS, *NUMBERS, "9" * 400)))
            lines[at] = comma.join(cells)
    data = "\n".join(lines).encode(
        random.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252")), "replace"
    )
    return mutate_bytes(data, random) if random.random() < 0.25 else data


def image(random: Random, height: int = 24, width: int = 32, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(random.randrange(2**32)).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


def encoded(random: Random, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image(random))[1].tobytes()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode(errors="surrogateescape") if isinstance(data, str) else data)
    return path
