"""Predict keypoints: python predict.py MODEL.onnx IMAGE … > points.csv, with onnxruntime, numpy and Pillow alone."""

import argparse
import csv
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Model:
    """An exported model. Points are x, y in pixels of the image; a pixel's centre is a whole number."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.info = json.loads(self.session.get_modelmeta().custom_metadata_map["kpnet"])

    def __call__(self, image, boxes=None):
        """Predict an image, uint8 (H, W) or RGB (H, W, 3), or each of its boxes (x0, y0, x1, y1), as `run` does."""
        image, size = to_channels(image, self.info["channels"]), self.info["input_size"]
        regions = [None] if boxes is None else [region(box, image, self.info["box_scale"], size) for box in boxes]
        return self.run([letterbox(image, size) if each is None else crop(image, each, size) for each in regions])

    def run(self, views):
        """Predict N views: `points` (N, K, 2), and what else `info["outputs"]` names, such as `confidence` (N, K)."""
        frames = 1 + sum(self.info["window"])  # an image is a clip without motion
        pixels = np.stack([[view] * frames if frames > 1 else view for view, _ in views])
        inputs = {"images": pixels, "matrices": np.stack([matrix for _, matrix in views]).astype(np.float32)}
        return dict(zip(self.info["outputs"], self.session.run(None, inputs), strict=True))


def read_image(path, bits=16):
    """Read an image as its EXIF rotation says, uint8 (H, W) or RGB (H, W, 3); grey of 16 bits has values of `bits`."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):
        return np.minimum(np.asarray(image) >> bits - 8, 255).astype(np.uint8)
    return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


def to_channels(image, channels):
    """Convert to grey (H, W, 1) or RGB (H, W, 3)."""
    if image.ndim == 3 and channels == 1:
        image = (image.astype(np.int32) @ np.array([9798, 19235, 3735]) + 16384 >> 15).astype(np.uint8)
    return np.repeat(image[..., None], channels, 2) if image.ndim == 2 else image


def letterbox(image, size):
    """Fit an image into a size (H, W), with black borders; return it and the matrix (2, 3) from pixels to pixels."""
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    rows, columns = (min(size[i], max(1, round(image.shape[i] * scale))) for i in (0, 1))
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    view = np.zeros((*size, image.shape[2]), np.uint8)
    view[top : top + rows, left : left + columns], matrix = resize(image, rows, columns)
    return view, np.add(matrix, [[0, 0, left], [0, 0, top]])


def region(box, image, scale, size):
    """Return the left, top, width and height of the region around a box, with the aspect ratio of a size (H, W)."""
    edges = np.clip(np.reshape(box, (2, 2)), -0.5, (image.shape[1] - 0.5, image.shape[0] - 0.5))
    (width, height), aspect = edges[1] - edges[0], size[1] / size[0]
    if not (width > 0 and height > 0):
        raise ValueError(f"box {box}: no area on an image of {image.shape[1]}x{image.shape[0]} (width x height)")
    sides = np.round([scale * max(width, height * aspect), scale * max(height, width / aspect)]).clip(1).astype(int)
    return *np.round(edges.mean(0) + 0.5 - sides / 2).astype(int), *sides


def crop(image, region, size):
    """Fit a region, black outside of the image, into a size (H, W); return it as `letterbox` does."""
    left, top, width, height = region
    view = np.zeros((height, width, image.shape[2]), np.uint8)
    part = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    view[max(-top, 0) :, max(-left, 0) :][: part.shape[0], : part.shape[1]] = part
    view, matrix = resize(view, *size)
    return view, matrix - matrix[:, :2] @ [[0, 0, left], [0, 0, top]]


def resize(image, rows, columns):
    """Resize as OpenCV's INTER_AREA where both sides shrink, else as INTER_LINEAR; return it as `letterbox` does."""
    height, width = image.shape[:2]
    axes, y, x = ((height, rows), (width, columns)), rows / height, columns / width
    matrix = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])  # the corner of an image is at -0.5
    if rows > height or columns > width:
        at = [((np.arange(n) + 0.5) * (m / n) - 0.5).astype(np.float32) for m, n in axes]
        (r, c), (v, u) = [np.floor(a).astype(int) for a in at], [np.rint(a % 1 * 2048).astype(int) for a in at]
        u, v = np.where((c >= 0) & (c < width - 1), u, 0)[:, None], v[:, None, None]
        lines = image[:, c.clip(0, width - 1)] * (2048 - u) + image[:, (c + 1).clip(0, width - 1)] * u >> 4
        lines = lines[r.clip(0, height - 1)] * (2048 - v) // 65536 + lines[(r + 1).clip(0, height - 1)] * v // 65536
        return (lines + 2 >> 2).astype(np.uint8), matrix
    if height % rows == 0 and width % columns == 0:
        total = image.reshape(rows, height // rows, columns, width // columns, -1).sum((1, 3), dtype=np.int32)
        mean = total.astype(np.float32) * np.float32(1 / (height // rows * (width // columns)))
        return np.uint8(np.floor(mean + 0.5) if (height, width) == (2 * rows, 2 * columns) else np.rint(mean)), matrix
    for axis, (source, target) in ((1, axes[1]), (0, axes[0])):  # in OpenCV's order: a tie is rounded as it does
        edges, mean = np.arange(target + 1) * (source / target), np.float32(0)
        for cell in (np.floor(edges[:-1]).astype(int) + k for k in range(source // target + 2)):
            share = np.minimum(edges[1:], cell + 1) - np.maximum(edges[:-1], cell)
            share = np.float32(np.where(share > 1e-3, share / np.minimum(source / target, source - edges[:-1]), 0))
            mean = mean + np.take(image, cell.clip(0, source - 1), axis) * share.reshape(-1, *[1] * (2 - axis))
        image = mean
    return np.rint(image).astype(np.uint8), matrix


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Predict keypoints in images, in their pixels.")
    parser.add_argument("files", nargs="+", metavar="MODEL.onnx IMAGE")
    parser.add_argument("--box", nargs=4, type=float, action="append", metavar=("X0", "Y0", "X1", "Y1"))
    arguments = parser.parse_args()
    model, table = Model(arguments.files[0]), csv.writer(sys.stdout)
    table.writerow(["image", "instance", "name", "x", "y", "confidence"])
    for path in arguments.files[1:]:
        try:
            found = model(read_image(path, model.info["bits"]), arguments.box)
        except (OSError, ValueError) as error:
            sys.exit(f"{path}: {error}")
        for n, k in np.ndindex(found["points"].shape[:2]):
            confidence = found["confidence"][n, k] if "confidence" in found else ""
            table.writerow([path, n, model.info["names"][k], *found["points"][n, k].round(3), confidence])
