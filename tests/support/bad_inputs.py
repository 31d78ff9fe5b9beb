"""A generator of bad inputs: files of every kind that kpnet reads, mutated, and the commands that read them.

Each function of `KINDS` writes the files of one case into a folder and returns the arguments of `kpnet`. Most files are
wrong in one place only, so that they get past the first check.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import yaml
from safetensors.torch import save
from support.mutations import (
    NUMBERS,
    TEXTS,
    encoded,
    image,
    mutate_bytes,
    mutate_text,
    mutate_values,
    places,
    write,
)

NAMES = ("left_eye", "right_eye", "nose")
Make = Callable[[Random, Path, Path], list[str]]  # (random, folder of the case, trained run) to the arguments


def tiny() -> dict[str, Any]:
    return {
        "name": "tiny",
        "model": {
            "backbone": {"name": "conv_sandwich", "channels": [4, 8], "norm": "batch"},
            "head": {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}, "stride": 2, "loss": {"l1": 1.0}},
            "in_channels": 1,
            "input_size": [32, 32],
        },
        "data": {
            "format": "synthetic",
            "train": 4,
            "val": 2,
            "skeleton": "facial15",
            "transforms": [{"Affine": {"rotate": [-9, 9], "p": 0.5}}, "HorizontalFlip"],
        },
        "train": {
            "epochs": 1,
            "batch_size": 4,
            "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01},
            "schedule": {"name": "one_cycle", "warmup": 0.3},
            "average": {"name": "ema", "decay": 0.9},
            "freeze": {"stages": 1},
            "clip_norm": 1.0,
            "seed": 0,
        },
        "trainer": {"accelerator": "cpu", "precision": "32-true"},
    }


def asks_for_much(config: Any) -> bool:
    """Whether a config asks for a training that is long because it says so."""
    try:
        train, data = config["train"], config["data"]
        numbers = [train.get("epochs", 1), data.get("train", 1), data.get("val", 1)]
    except (KeyError, TypeError, AttributeError):
        return False
    return any(isinstance(number, (int, float)) and number > 5 for number in numbers)


def make_yaml(random: Random, folder: Path, run: Path) -> list[str]:
    config = mutate_values(tiny(), random)
    if random.random() < 0.2:
        config = mutate_values(config, random)
    text = yaml.safe_dump(config, sort_keys=False)
    raw = text.encode()
    kind = random.randrange(8)
    if kind == 0:
        raw = mutate_text(text, random, ": ")
    elif kind == 1:
        bad = random.choice(
            ("!!bool a", "!!python/name:os.system x", "2020-13-45", "&a [*a]", "*gone", "[" * 3000, "@", "1" * 5000)
        )
        raw = text.replace(random.choice(text.splitlines()), f"x: {bad}").encode()
    elif kind == 2:
        raw = mutate_bytes(raw, random)
    path = write(folder / "c.yaml", raw)
    trains = random.random() < 0.6 and kind > 2 and not asks_for_much(config)
    return ["train", str(path), "--out", str(folder / "o")] if trains else ["info", str(path)]


def read_commands(random: Random, folder: Path, run: Path, data: Path, form: str | None = None) -> list[str]:
    """One of the commands that read labelled data."""
    form_option = ["--format", form] if form and random.random() < 0.5 else []
    return random.choice(
        (
            ["data", "check", str(data), "--sheet", str(folder / "sheet.png"), "--count", "1", *form_option],
            ["data", "check", str(data), "--sheet", str(folder / "sheet.png"), "--count", "3"],
            [
                "data",
                "convert",
                str(data),
                str(folder / "converted"),
                "--to",
                random.choice(("coco", "pts", "points_csv", "npz")),
            ],
            ["evaluate", str(run), str(data)],
            ["predict", str(run), str(data), "--out", str(folder / "predictions")],
            ["calibrate", str(run), str(data)],
        )
    )


def kaggle(random: Random) -> str:
    lines = [",".join(f"{name}_{axis}" for name in NAMES for axis in "xy") + ",Image"]
    for _ in range(4):
        cells = [f"{random.uniform(2, 14):.1f}" for _ in range(6)]
        lines.append(",".join([*cells, " ".join(str(random.randrange(256)) for _ in range(16 * 16))]))
    return "\n".join(lines) + "\n"


def points_csv(random: Random, folder: Path) -> str:
    lines = ["image," + ",".join(f"{name}_{axis}" for name in NAMES for axis in "xy")]
    for i in range(3):
        write(folder / f"{i}.png", encoded(random))
        lines.append(",".join([f"{i}.png", *(f"{random.uniform(2, 22):.1f}" for _ in range(6))]))
    return "\n".join(lines) + "\n"


def make_csv(random: Random, folder: Path, run: Path) -> list[str]:
    text = kaggle(random) if random.random() < 0.5 else points_csv(random, folder)
    if random.random() < 0.05:
        text = text.replace("\n", "," + ",".join(f"p{k}_x,p{k}_y" for k in range(3000)) + "\n", 1)
    data = mutate_text(text, random)
    if random.random() < 0.05:
        data = data.replace(b"\n", b"\n" + b"1" * 200_000, 1)
    return read_commands(random, folder, run, write(folder / "d.csv", data), "points_csv")


def make_parquet(random: Random, folder: Path, run: Path) -> list[str]:
    points_csv_text = points_csv(random, folder)
    frame = pd.read_csv(io.StringIO(points_csv_text))
    column = random.choice(frame.columns)
    odd: list[Any] = [
        [None] * 3, [[1], [2], [3]], [b"\xff", b"a", b""], list(map(str, range(3))), [{"a": 1}] * 3,
        [datetime.datetime(2020, 1, 1)] * 3, [float("nan")] * 3, [float("inf"), 1e308, -1e308], [2**62] * 3,
        [True, False, None], ["", "\udc00".encode("utf-8", "surrogatepass").decode("utf-8", "ignore"), "x" * 9999],
    ]  # fmt: skip
    frame[column] = pd.Series(random.choice(odd))
    if random.random() < 0.3:
        frame = frame.rename(columns={column: random.choice(TEXTS)})
    if random.random() < 0.1:
        frame = frame.iloc[:0]
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    data = mutate_bytes(buffer.getvalue(), random) if random.random() < 0.4 else buffer.getvalue()
    return read_commands(random, folder, run, write(folder / "d.parquet", data), "points_csv")


def make_coco(random: Random, folder: Path, run: Path) -> list[str]:
    images, annotations = [], []
    for i in range(3):
        write(folder / f"{i}.png", encoded(random))
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 32, "height": 24})
        points = [number for _ in NAMES for number in (random.randrange(2, 22), random.randrange(2, 22), 2)]
        box = [1, 1, 22, 22]
        annotations.append(
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "keypoints": points, "num_keypoints": 3, "bbox": box,
             "area": 484.0, "iscrowd": 0}
        )  # fmt: skip
    categories = [{"id": 1, "name": "face", "keypoints": list(NAMES), "skeleton": [[1, 2]]}]
    values: Any = {"images": images, "annotations": annotations, "categories": categories}
    for _ in range(random.choice((1, 1, 2))):
        values = mutate_values(values, random)
    text = json.dumps(values)
    data = mutate_bytes(text.encode(), random) if random.random() < 0.2 else text.encode()
    path = write(folder / "d.json", data)
    if random.random() < 0.15:
        return ["evaluate", str(run), str(path), "--coco-results", str(folder / "results.json")]
    return read_commands(random, folder, run, path, "coco")


def tool_points(random: Random) -> list[tuple[str, float, float]]:
    return [(name, random.uniform(2, 22), random.uniform(2, 22)) for name in NAMES]


def make_labelme(random: Random, folder: Path, run: Path) -> list[str]:
    for i in range(3):
        write(folder / "in" / f"{i}.png", encoded(random))
        shapes: list[Any] = [
            {"label": name, "points": [[x, y]], "group_id": 0, "shape_type": "point", "flags": {"occluded": not i}}
            for name, x, y in tool_points(random)
        ]
        shapes.append({"label": "face", "points": [[1, 1], [22, 22]], "group_id": 0, "shape_type": "rectangle"})
        values: Any = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{i}.png", "imageData": None}
        values |= {"imageHeight": 24, "imageWidth": 32}
        text = json.dumps(mutate_values(values, random) if i != 1 else values).encode()
        write(folder / "in" / f"{i}.json", mutate_bytes(text, random) if random.random() < 0.1 else text)
    data = folder / "in" if random.random() < 0.7 else folder / "in" / "1.json"
    return read_commands(random, folder, run, data, "labelme")


def make_label_studio(random: Random, folder: Path, run: Path) -> list[str]:
    tasks: Any = []
    size = {"original_width": 32, "original_height": 24}
    for i in range(3):
        write(folder / f"{i}.png", encoded(random))
        box = {"x": 1, "y": 1, "width": 80, "height": 80, "rotation": 0, "rectanglelabels": ["face"]}
        result = [{"id": "b", "type": "rectanglelabels", "value": box, **size}]
        for name, x, y in tool_points(random):
            value = {"x": x, "y": y, "width": 1, "keypointlabels": [name]}
            result.append({"id": name, "type": "keypointlabels", "value": value, "parentID": "b", **size})
        image = random.choice((f"/data/upload/1/0a1b2c3d-{i}.png", f"/data/local-files/?d=x/{i}.png", f"{i}.png"))
        annotations = [{"id": 1, "result": result, "was_cancelled": False}]
        tasks.append({"id": i, "data": {"image": image}, "annotations": annotations, "predictions": []})
    for _ in range(random.choice((1, 1, 2))):
        tasks = mutate_values(tasks, random)
    text = json.dumps(tasks).encode()
    path = write(folder / "tasks.json", mutate_bytes(text, random) if random.random() < 0.2 else text)
    return read_commands(random, folder, run, path, "label_studio")


def make_cvat(random: Random, folder: Path, run: Path) -> list[str]:
    lines = ["<annotations>", "<meta><task><labels><label><name>face</name><type>skeleton</type></label>"]
    lines += [f"<label><name>{name}</name><parent>face</parent></label>" for name in NAMES] + [
        "</labels></task></meta>"
    ]
    for i in range(3):
        write(folder / "images" / f"{i}.png", encoded(random))
        lines.append(f'<image id="{i}" name="{i}.png" width="32" height="24"><skeleton label="face" source="manual">')
        lines += [
            f'<points label="{name}" outside="0" occluded="{i % 2}" points="{x:.2f},{y:.2f}"></points>'
            for name, x, y in tool_points(random)
        ]
        lines.append("</skeleton></image>")
    text = "\n".join([*lines, "</annotations>"])
    data = mutate_text(text, random, random.choice(('"', ">", ",", " ")))
    return read_commands(random, folder, run, write(folder / "annotations.xml", data), "cvat")


SLEAP: list[bytes] = []


def make_sleap(random: Random, folder: Path, run: Path) -> list[str]:
    if not SLEAP:
        import sleap_io

        skeleton = sleap_io.Skeleton(list(NAMES))
        names = [str(write(folder / f"{i}.png", encoded(Random(i)))) for i in range(3)]
        video = sleap_io.Video.from_filename(names)
        points = np.array([[5.0, 6], [15, 7], [10, 12]])
        frames = [
            sleap_io.LabeledFrame(video=video, frame_idx=i, instances=[sleap_io.Instance.from_numpy(points, skeleton)])
            for i in range(3)
        ]
        sleap_io.Labels(frames).save(str(folder / "made.pkg.slp"), embed="all", verbose=False)
        SLEAP.append((folder / "made.pkg.slp").read_bytes())
    data = mutate_bytes(SLEAP[0], random)
    return read_commands(random, folder, run, write(folder / "d.slp", data), "sleap")


def make_pts(random: Random, folder: Path, run: Path) -> list[str]:
    for i in range(2):
        points = "\n".join(f"{random.uniform(2, 22):.1f} {random.uniform(2, 22):.1f}" for _ in range(3))
        text = f"version: 1\nn_points: 3\n{{\n{points}\n}}\n"
        write(folder / "pts" / f"{i}.pts", mutate_text(text, random, " ") if i or random.random() < 0.2 else text)
        write(folder / "pts" / f"{i}.png", encoded(random))
    return read_commands(
        random, folder, run, folder / "pts", random.choice(("pts", "{name: pts, index_base: 0}", "{name: pts, x: 1}"))
    )


def make_deeplabcut(random: Random, folder: Path, run: Path) -> list[str]:
    project = folder / "dlc"
    config: Any = {
        "Task": "t",
        "scorer": "me",
        "date": "Jan1",
        "bodyparts": list(NAMES),
        "skeleton": [["left_eye", "nose"]],
        "multianimalproject": False,
        "video_sets": {"v.mp4": {"crop": "0, 9, 0, 9"}},
    }
    heads = [["scorer", *["me"] * 6], ["bodyparts", *(n for n in NAMES for _ in "xy")], ["coords", *["x", "y"] * 3]]
    rows = [",".join(cells) for cells in heads]
    for i in range(2):
        write(project / "labeled-data" / "v" / f"{i}.png", encoded(random))
        rows.append(f"labeled-data/v/{i}.png," + ",".join(f"{random.uniform(2, 22):.1f}" for _ in range(6)))
    table = "\n".join(rows) + "\n"
    in_config = random.random() < 0.5
    text = yaml.safe_dump(mutate_values(config, random) if in_config else config)
    write(project / "config.yaml", mutate_text(text, random, ": ") if in_config and random.random() < 0.4 else text)
    write(project / "labeled-data" / "v" / "CollectedData_me.csv", table if in_config else mutate_text(table, random))
    return read_commands(random, folder, run, project, "deeplabcut")


def make_npz(random: Random, folder: Path, run: Path) -> list[str]:
    arrays: dict[str, Any] = {
        "images": np.stack([image(random, 16, 16, 1)] * 3),
        "keypoints": np.array([[[random.uniform(2, 14), random.uniform(2, 14)] for _ in NAMES]] * 3),
        "names": np.array(NAMES),
    }
    key = random.choice(list(arrays))
    array = arrays[key]
    odd: list[Any] = [
        array[:2], array[:0], array[..., :1], array[None], array.T, np.array(0), np.array([]), np.array(["x"] * 3),
        np.array([None, {}, "a"], object), np.full(array.shape, np.nan), np.full(array.shape, np.inf),
        np.zeros((3, 2, 2, 5)),
        array.astype("S4"), np.zeros(array.shape, complex), np.full(array.shape, 2**62), np.zeros(array.shape, bool),
        np.array(["a\0b", "[/b]", "$x$"]), np.array(["nose"] * 3), np.array([b"\xff", b"a", b"b"]),
    ]  # fmt: skip
    arrays[key] = random.choice(odd)
    if random.random() < 0.2:
        arrays.pop(random.choice(list(arrays)))
    if random.random() < 0.2:
        arrays[random.choice(("image_names", "boxes", "visibility", "weights"))] = random.choice(odd)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    data = buffer.getvalue()
    chance = random.random()
    if chance < 0.2:
        data = mutate_bytes(data, random)
    elif chance < 0.3:  # a header that promises more than there is
        inside = io.BytesIO()
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(inside, header)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("images.npy", inside.getvalue())
            archive.writestr("keypoints.npy", random.choice((b"", b"\x93NUMPY", inside.getvalue())))
        data = buffer.getvalue()
    return read_commands(random, folder, run, write(folder / "d.npz", data), "npz")


def odd_name(random: Random) -> bytes:
    return random.choice(
        (b"a", b"caf\xe9", b"a[b]", b"$x$_$y$", b"\x1b[31m", "日本".encode(), b"a b", b"-x", b"~", b"a" * 200)
    )


def make_image(random: Random, folder: Path, run: Path) -> list[str]:
    place = folder / "images"
    for _ in range(random.choice((1, 2, 3))):
        suffix = random.choice((".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"))
        kind = random.randrange(6)
        if kind == 0:
            data = encoded(random, suffix)
        elif kind == 1:
            size = random.choice(((1, 1), (1, 300), (300, 1), (2, 2)))
            data = cv2.imencode(suffix, image(random, *size))[1].tobytes()
        elif kind == 2:
            pixels = (
                np.zeros((8, 9), random.choice((np.uint16, np.float32)))
                if suffix in (".tiff", ".png")
                else image(random)
            )
            pixels = pixels.astype(np.uint16) if suffix == ".png" and pixels.dtype == np.float32 else pixels
            data = cv2.imencode(suffix, pixels)[1].tobytes()
        elif kind == 3:
            data = random.choice(
                (b"", b"hello", b"\0" * 100, b"P6 100000 100000 255\n", b"P6 0 0 255\n", b"P6 -1 4 255\n")
            )
        else:
            data = mutate_bytes(encoded(random, suffix), random)
        name = os.fsdecode(odd_name(random) + random.choice((suffix, suffix, ".png")).encode())
        write(place / name, data)
    source = random.choice((str(place), str(next(iter(place.iterdir())))))
    return random.choice(
        (
            [
                "predict",
                str(run),
                source,
                "--out",
                str(folder / "predictions"),
                *random.choice(([], ["--draw"], ["--json"])),
            ],
            ["visualize", str(run), source, "--out", str(folder / "seen"), "--limit", "1"],
            ["data", "check", str(place), "--sheet", str(folder / "sheet.png"), "--count", "1"],
        )
    )


VIDEO: dict[str, bytes] = {}


def make_video(random: Random, folder: Path, run: Path) -> list[str]:
    if not VIDEO:
        for suffix, code in ((".mp4", "mp4v"), (".avi", "MJPG")):
            path = folder / f"v{suffix}"
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, (48, 32))
            for i in range(6):
                writer.write(np.full((32, 48, 3), 40 * i, np.uint8))
            writer.release()
            VIDEO[suffix] = path.read_bytes()
            path.unlink()
    suffix = random.choice(list(VIDEO))
    data = VIDEO[suffix]
    data = random.choice((data, b"", b"RIFF", b"\0" * 500, *[mutate_bytes(data, random)] * 6))
    path = write(folder / os.fsdecode(odd_name(random) + suffix.encode()), data)
    smooth = random.choice(([], [], ["--smooth", "one_euro"], ["--smooth", "savgol:window=99"], ["--smooth", "x"]))
    return ["predict", str(run), str(path), "--out", str(folder / "predictions"), *smooth]


def use_model(random: Random, folder: Path, model: Path) -> list[str]:
    photo = write(folder / "photo.png", encoded(random))
    return random.choice(
        (
            ["info", str(model)],
            ["predict", str(model), str(photo), "--out", str(folder / "predictions")],
            ["predict", str(model), str(photo), "--flip-test", "--out", str(folder / "predictions")],
            ["report", str(model), "--out", str(folder / "report.html")],
        )
    )


def make_model(random: Random, folder: Path, run: Path) -> list[str]:
    model = Path(shutil.copytree(run, folder / "m")) / "final"
    text, weights = (model / "model.yaml").read_text(), (model / "model.safetensors").read_bytes()
    chance = random.random()
    if chance < 0.6:
        text = yaml.safe_dump(mutate_values(yaml.safe_load(text), random), sort_keys=False)
    if chance > 0.8:
        other = (weights[:100], b"", b"\xff" * 64, pickle.dumps({}), save({"a": torch.zeros(1)}))
        weights = random.choice((mutate_bytes(weights, random), *other))
    write(model / "model.yaml", mutate_text(text, random, ": ") if 0.6 < chance < 0.8 else text)
    write(model / "model.safetensors", weights)
    return use_model(random, folder, folder / "m")


class Harmless:
    """An object that weights-only loading must refuse."""

    def __reduce__(self) -> Any:
        return os.getpid, ()


def make_checkpoint(random: Random, folder: Path, run: Path) -> list[str]:
    odd: list[Any] = [
        {}, [], None, 1, {"state_dict": {}}, {"state_dict": {"a": torch.zeros(1)}}, {"state_dict": 3}, torch.zeros(2),
        {"model": {"backbone.x": torch.zeros(10, 10)}}, {1: torch.zeros(1)}, {"a": torch.zeros(0)}, {"a": Harmless()},
        {"state_dict": {"backbone.a": torch.zeros(2, dtype=torch.complex64)}},
    ]  # fmt: skip
    buffer = io.BytesIO()
    torch.save(random.choice(odd), buffer)
    data = buffer.getvalue()
    if random.random() < 0.4:
        data = mutate_bytes(data, random)
    if random.random() < 0.3:
        copied = Path(shutil.copytree(run, folder / "r"))
        saved = (copied / "last.ckpt").read_bytes()
        write(copied / "last.ckpt", random.choice((data, saved, mutate_bytes(saved, random), saved[: len(saved) // 2])))
        return ["train", str(copied / "config.yaml"), "--out", str(copied), "--resume"]
    path = write(folder / random.choice(("w.pth", "w.ckpt", "w.safetensors", "w.bin", "w")), data)
    if random.random() < 0.3:
        path = write(path, random.choice(((run / "final" / "model.safetensors").read_bytes(), data)))
    config = write(folder / "c.yaml", yaml.safe_dump(tiny()))
    return ["info", str(config), f"model.pretrained={path}"]


def make_command(random: Random, folder: Path, run: Path) -> list[str]:
    config = str(write(folder / "c.yaml", yaml.safe_dump(tiny())))
    photo = str(write(folder / "photo.png", encoded(random)))
    data = str(write(folder / "d.csv", kaggle(random)))
    out = ["--out", str(folder / "o")]
    value = str(random.choice((*TEXTS, *NUMBERS, "1e9", "nan", "9" * 400)))
    key = random.choice([".".join(map(str, place)) for place in places(tiny()) if place])
    options = {
        "predict": ("--scales", "--shift", "--batch-size", "--smooth", "--decoding", "--with"),
        "evaluate": (
            "--scales",
            "--shift",
            "--batch-size",
            "--nme",
            "--failure-threshold",
            "--min-confidence",
            "--decoding",
        ),
    }
    command = random.choice(
        ("info", "info", "predict", "evaluate", "check", "any", "sweep", "report", "visualize", "config")
    )
    if command == "info":
        return ["info", config, f"{key}={value}"]
    if command in options:
        given = [photo, *out] if command == "predict" else [data]
        return [command, str(run), *given, random.choice(options[command]), value]
    if command == "check":
        option = random.choice(("--format", "--skeleton", "--count", "--sheet"))
        sheet = [] if option == "--sheet" else ["--sheet", str(folder / "s.png")]
        return ["data", "check", data, option, value if option != "--count" or len(value) < 4 else "x", *sheet]
    if command == "any":
        names = ("train", "predict", "evaluate", "calibrate", "tune", "data", "demo", "nope")
        arguments = [random.choice((*TEXTS, "--out", "--resume", "--nope", "check", str(run))) for _ in range(3)]
        return [random.choice(names), *arguments, "--nope"]
    if command == "sweep":
        return ["sweep", value, *out]
    if command == "report":
        return ["report", random.choice((value, str(folder), data)), "--out", str(folder / "r.html")]
    if command == "visualize":
        return ["visualize", str(run), random.choice((value, str(folder / "gone"))), *out]
    return ["config", value]


KINDS: dict[str, Make] = {
    "yaml": make_yaml,
    "command line": make_command,
    "csv": make_csv,
    "parquet": make_parquet,
    "coco": make_coco,
    "labelme": make_labelme,
    "label studio": make_label_studio,
    "cvat": make_cvat,
    "sleap": make_sleap,
    "pts": make_pts,
    "deeplabcut": make_deeplabcut,
    "npz": make_npz,
    "image": make_image,
    "video": make_video,
    "model": make_model,
    "checkpoint": make_checkpoint,
}
