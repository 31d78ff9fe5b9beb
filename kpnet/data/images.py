"""Find and read image files, convert channels, and fit images into the model's input."""

from __future__ import annotations

import functools
import io
import logging
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

from kpnet.config.schema import ModelConfig
from kpnet.coordinates import Size, after_crop, crop_region, letterbox_matrix, resize_matrix
from kpnet.core.errors import KpnetError
from kpnet.core.files import PARTIAL
from kpnet.core.outputs import MARKER, written_files
from kpnet.core.validation import check_bits
from kpnet.data.image_header import check_pixels, max_pixels, read_header, without_pillow_limit

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif", ".heic", ".heif"),
    *(".apng", ".dib", ".jpe", ".jfif", ".jp2", ".j2k", ".pgm", ".ppm", ".pbm", ".pnm"),
)
# Images that cannot be read, and that would be missed if nothing said so.
FOREIGN_SUFFIXES = (
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),  # raw files of cameras
    *(".jxl", ".jxr", ".exr", ".hdr", ".pfm", ".psd", ".xcf", ".tga", ".dds", ".ico", ".pcx", ".svg", ".eps"),
    *(".dcm", ".czi", ".lif", ".nd2", ".svs", ".ndpi", ".fits"),  # medicine, microscopes and telescopes
)
VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts", ".mts", ".m2ts", ".h264"),
    *(".264", ".h265", ".265", ".hevc", ".asf", ".flv", ".ogv", ".vob", ".3gp", ".mxf", ".dv", ".m2v", ".mjpeg"),
    *(".mjpg", ".ivf", ".obu", ".y4m"),
)

PILLOW_KINDS = ("GIF", "AVIF", "HEIF", "DIB")  # the others are OpenCV's
STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"GIF8")
DAMAGED = "the image is cut short, damaged, or neither 8- nor 16-bit; save it again"
MOST_BYTES = 8  # of a file for each pixel: 16 bits and alpha

Region = tuple[int, int, int, int]
Box = Sequence[float]  # edges x0, y0, x1, y1 in pixels of the image, which reaches from -0.5 to W - 0.5

_warn_once = functools.cache(logging.getLogger("kpnet").warning)

# OpenCV 5 has it in another place than OpenCV 4.
_set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel


def find_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in a folder and its subfolders that have one of the suffixes, sorted by path.

    Args:
        folder: An existing folder.
        suffixes: Suffixes in lower case and with the dot. The case of a file's suffix does not matter.

    Returns:
        The files, whose paths begin with `folder`; an empty list if there are none. Pipes and devices are among them,
        and what reads them refuses them. What kpnet wrote there, such as a contact sheet or an earlier prediction's
        drawings, is not among them; a warning says so.
    """
    return list(walk_files(folder, suffixes))


def walk_files(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield what `find_files` returns, in the same order; the names of one folder at a time are in memory."""
    written: list[int] = []  # numbers of files in the folders seen so far
    found = False
    for path in _walk(folder, tuple(suffixes), (), written):
        found = True
        yield path
    if sum(written) and found:
        _warn_once("%s: %d file(s) that kpnet wrote into it are not read as data", folder, sum(written))


def _walk(folder: Path, suffixes: tuple[str, ...], marked: tuple[Path, ...], written: list[int]) -> Iterator[Path]:
    """Yield the files of a folder below `marked` ones, and append how many others kpnet wrote into it."""
    try:
        with os.scandir(folder) as entries:
            # A link to a folder is neither a file nor followed, for it may lead back here.
            every = [
                (entry.name, _is_folder(entry, follow=False))
                for entry in entries
                if not entry.name.startswith(PARTIAL) and (not _is_folder(entry) or not entry.is_symlink())
            ]
    except PermissionError:
        return
    every.sort()
    marked += (folder,) * any(name == MARKER for name, _ in every)
    every = [(name, inner) for name, inner in every if inner or PurePath(name).suffix.lower() in suffixes]
    own: set[Path] = set()
    if marked:
        files = {folder / name for name, inner in every if not inner}
        own = {file for place in marked for file in written_files(place, files)}
        written.append(len(own))
    for name, inner in every:
        path = folder / name
        if inner:
            yield from _walk(path, suffixes, marked, written)
        elif path not in own:
            yield path


def _is_folder(entry: os.DirEntry[str], *, follow: bool = True) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:  # a link to itself
        return False


def find_image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted by path.

    Args:
        folder: The folder.

    Returns:
        The files whose suffix is one of `IMAGE_SUFFIXES` or `FOREIGN_SUFFIXES`, so that reading them tells which of
        them cannot be read. They are not opened.

    Raises:
        KpnetError: The folder does not exist, or there is no image in it.
    """
    if not folder.is_dir():
        raise KpnetError(f"{folder}: no such folder; expected a folder of images")
    return list(walk_image_files(folder))


def walk_image_files(folder: Path) -> Iterator[Path]:
    """Yield what `find_image_files` returns, in the same order; the names of one folder at a time are in memory."""
    if not folder.is_dir():
        raise KpnetError(f"{folder}: no such folder; expected a folder of images")
    path = None
    for path in walk_files(folder, IMAGE_SUFFIXES + FOREIGN_SUFFIXES):
        yield path
    if path is None:
        own = "; those that kpnet wrote there are not data" if os.path.lexists(folder / MARKER) else ""
        raise KpnetError(f"{folder}: found no images in it (expected {', '.join(IMAGE_SUFFIXES[:7])}, …){own}")


def read_image(path: str | Path, *, exif: bool = True, bits: int = 16) -> np.ndarray:
    """Read an image file.

    CMYK becomes RGB, alpha is dropped without blending, and a 16-bit image keeps the upper 8 of its `bits`.

    Args:
        path: The file.
        exif: Apply the EXIF rotation, as an image viewer does. False: pixels as they are stored, as MATLAB, PIL and
            pycocotools read them.
        bits: Bits, from 8 to 16, that the values of a 16-bit image fill: 12 for a camera of 12 bits. Larger values
            become white. 8-bit images do not change.

    Returns:
        RGB uint8 (H, W, 3).

    Raises:
        KpnetError: The file does not exist, is no regular file or no image, holds several images, is damaged or cut
            short, or has more pixels than the environment variable KPNET_MAX_IMAGE_PIXELS allows (default
            178,956,970).
    """
    check_bits(bits)
    image = _decode(Path(path), exif)
    return image if image.dtype == np.uint8 else np.minimum(image >> (bits - 8), 255).astype(np.uint8)


def filled_bits(path: Path) -> int | None:
    """Return how many bits the largest value of a 16-bit image takes; None if the image has 8 bits."""
    image = _decode(path, exif=False)
    return None if image.dtype == np.uint8 else int(image.max()).bit_length()


def _decode(path: Path, exif: bool) -> np.ndarray:
    """Read an image file as RGB, uint8 or uint16 (H, W, 3)."""
    _check_suffix(path)
    with _opened(path) as file:
        header = read_header(path, file)
        file.seek(0)
        data = np.frombuffer(file.read(), np.uint8)
    if header is None:
        if any(data[: len(start)].tobytes() == start for start in STARTS):
            raise KpnetError(f"{path}: {DAMAGED}")
        raise KpnetError(f"{path}: not a readable image (expected one of {', '.join(IMAGE_SUFFIXES[:7])}, …)")
    image = _with_pillow(data) if header.kind in PILLOW_KINDS else _with_opencv(data)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise KpnetError(f"{path}: {DAMAGED}")
    if header.kind == "TIFF":  # OpenCV has turned it, whatever its flags say
        return image if exif else _turned(image, {6: 8, 8: 6}.get(header.orientation, header.orientation))
    return _turned(image, header.orientation) if exif else image


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() in FOREIGN_SUFFIXES:  # of a raw file, the thumbnail could be read
        raise KpnetError(f"{path}: {path.suffix} images cannot be read; convert it to PNG or JPEG")


def _with_opencv(data: np.ndarray) -> np.ndarray | None:
    level = _set_log_level(0)  # the caller says what is wrong
    try:
        # Not IMREAD_COLOR_RGB, with which OpenCV 5.0 garbles colour TIFFs of 16 bits.
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
        return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except cv2.error:
        return None
    finally:
        _set_log_level(level)


def _with_pillow(data: np.ndarray) -> np.ndarray | None:
    try:
        with without_pillow_limit():
            return np.array(Image.open(io.BytesIO(data.data)).convert("RGB"))
    except Exception:  # whatever damaged data lead to
        return None


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror stored pixels as EXIF's orientation says. OpenCV does so for some kinds of files alone."""
    if orientation == 1:
        return image
    image = image.transpose(1, 0, 2) if orientation >= 5 else image
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if rows else 1, :: -1 if columns else 1])


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; a pipe would wait for ever, and a device may have no end."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise KpnetError(f"{path}: Is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise KpnetError(f"{path}: not a regular file, but a pipe, a socket or a device")
        if status.st_size > MOST_BYTES * max_pixels():
            raise KpnetError(f"{path}: {status.st_size} bytes, more than an image of {max_pixels()} pixels takes")
        with path.open("rb") as file:
            yield file
    except KpnetError:
        raise
    except (FileNotFoundError, ValueError):  # ValueError: a name with a NUL
        raise KpnetError(f"{path}: no such file") from None
    except OSError as error:
        raise KpnetError(f"{path}: {error.strerror}") from None


def read_image_size(path: Path, *, exif: bool = True) -> tuple[int, int]:
    """Return the height and width that `read_image` gives, from the file's header alone."""
    with _opened(path) as file:
        header = read_header(path, file)
    if header is None:
        return read_image(path, exif=exif).shape[:2]  # raises
    turned = exif and header.orientation >= 5
    return (header.width, header.height) if turned else (header.height, header.width)


def is_turned(path: Path) -> bool:
    """Return whether EXIF turns or mirrors an image, so that `exif` matters; False for what is no image."""
    try:
        with _opened(path) as file:
            header = read_header(path, file)
    except KpnetError:
        return False
    return header is not None and header.orientation != 1


def header_problem(path: Path) -> str | None:
    """Return why a file is no image by its first bytes, as one line that names it; None if it seems to be one."""
    try:
        _check_suffix(path)
        with _opened(path) as file:
            known = read_header(path, file) is not None
    except KpnetError as error:
        return str(error)
    return None if known else f"{path}: not a readable image"


def image_problem(path: Path) -> str | None:
    """Check an image file.

    A JPEG, PNG or WebP whose first and last bytes are right counts as good. Any other file is decoded.

    Args:
        path: The file.

    Returns:
        One line that names the file and its problem; None if there is none.
    """
    try:
        _check_suffix(path)
        with _opened(path) as file:
            head, size = file.read(64), os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 16))
            tail = file.read()
            if head[37:41] == b"acTL" or head[12:16] == b"VP8X":  # an animation, in a PNG or perhaps in a WebP
                file.seek(0)
                read_header(path, file)
        if head.startswith(b"\x89PNG"):
            check_pixels(path, int.from_bytes(head[16:20]) * int.from_bytes(head[20:24]))
        whole = (
            (head.startswith(b"\xff\xd8\xff") and b"\xff\xd9" in tail)
            or (head.startswith(b"\x89PNG\r\n") and b"IEND" in tail)
            or (head.startswith(b"RIFF") and int.from_bytes(head[4:8], "little") + 8 <= size)
        )
        if not whole:
            read_image(path)
    except KpnetError as error:
        return str(error)
    return None


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert an image between grey and RGB.

    Args:
        image: Uint8 (H, W), (H, W, 1) or (H, W, 3).
        channels: 1 or 3.

    Returns:
        Uint8 (H, W) for 1 channel, else (H, W, C).

    Raises:
        KpnetError: The image cannot be converted.
    """
    found = 1 if image.ndim == 2 else image.shape[2]
    if found == 1:
        image = image.reshape(image.shape[:2])
    if found == channels:
        return image
    if found == 1:
        return np.repeat(image[..., None], channels, axis=2)
    if found == 3 and channels == 1:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    raise KpnetError(f"an image has {found} channels, expected {channels}: set model.in_channels to {found}")


def crop(image: np.ndarray, region: Region, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Crop an image and resize the crop.

    Args:
        image: Uint8 (H, W) or (H, W, C).
        region: The pixels left, top, right and bottom, the last two exclusive. Outside the image it is black.
        size: Height and width to resize to.

    Returns:
        The crop and the 2x3 matrix that maps pixels of the image to pixels of the crop.
    """
    left, top, right, bottom = region
    cut = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    source = (bottom - top, right - left)
    if cut.shape[:2] != source:
        y, x = max(-top, 0), max(-left, 0)
        padded = np.zeros((*source, *image.shape[2:]), image.dtype)
        padded[y : y + cut.shape[0], x : x + cut.shape[1]] = cut
        cut = padded
    matrix = after_crop(resize_matrix(source, size), left, top)
    return _resize(cut, size), matrix


def letterbox(image: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Resize an image to fit into a size with its aspect ratio kept, centred and with black borders.

    Args:
        image: Uint8 (H, W) or (H, W, C).
        size: Height and width of the result.

    Returns:
        The letterboxed image and the 2x3 matrix that maps pixels of the image to its pixels.
    """
    source = (image.shape[0], image.shape[1])
    matrix, inner = letterbox_matrix(source, size)
    image = _resize(image, inner)
    if inner == size:
        return image, matrix
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    padded = np.zeros((*size, *image.shape[2:]), image.dtype)
    padded[top : top + inner[0], left : left + inner[1]] = image
    return padded, matrix


def _resize(image: np.ndarray, size: Size) -> np.ndarray:
    source = image.shape[:2]
    if source == size:
        return image
    # Where one side grows, OpenCV's INTER_AREA would not average along the other either.
    shrinks = size[0] <= source[0] and size[1] <= source[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def model_inputs(
    image: np.ndarray, boxes: Sequence[Box] | None, config: ModelConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Prepare an image as input of a model: letterboxed, or one crop for each box.

    Args:
        image: Uint8 (H, W) or RGB (H, W, 3).
        boxes: Edges x0, y0, x1, y1 of each box in pixels. None: the whole image.
        config: The model's config, of which input size, channels and box scale are used.

    Returns:
        For each input the uint8 image and the 2x3 matrix that maps pixels of `image` to its pixels.

    Raises:
        KpnetError: The image or a box is not as described.
    """
    regions = check_model_input(image, boxes, config)
    image = to_channels(image, config.in_channels)
    if boxes is None:
        return [letterbox(image, config.input_size)]
    return [crop(image, region, config.input_size) for region in regions]


def check_model_input(image: np.ndarray, boxes: Sequence[Box] | None, config: ModelConfig) -> list[Region]:
    """Check what `model_inputs` is given, without preparing it.

    Args:
        image: As in `model_inputs`.
        boxes: As in `model_inputs`.
        config: As in `model_inputs`.

    Returns:
        The region of the image around each box: its pixels left, top, right and bottom, the last two exclusive.

    Raises:
        KpnetError: The image or a box is not as described.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise KpnetError(f"expected an image uint8 (H, W) or RGB (H, W, 3), got {image.dtype} {image.shape}")
    to_channels(image[:1, :1], config.in_channels)
    regions = []
    for box in boxes or ():
        if len(box) != 4 or not all(math.isfinite(value) for value in box):
            raise KpnetError(f"box {list(box)}: expected four finite numbers x0, y0, x1, y1")
        try:
            region = crop_region(box, config.box_scale, (image.shape[0], image.shape[1]), config.input_size)
        except ValueError as error:
            raise KpnetError(str(error)) from None
        if (region[2] - region[0]) * (region[3] - region[1]) > max_pixels():
            raise KpnetError(f"box {list(box)}: the region around it has more than {max_pixels()} pixels")
        regions.append(region)
    return regions
