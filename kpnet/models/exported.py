"""An exported model: an ONNX file that `kpnet export` wrote, which predicts as the model did."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field, ValidationError
from torch import Tensor, nn

from kpnet import coordinates
from kpnet.config.fields import StrictModel
from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError, first_line, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.core.validation import explain_validation_error
from kpnet.heads import Keypoints
from kpnet.models.calibration import Calibration
from kpnet.models.checks import check_finite, size_message
from kpnet.models.guarantee import Guarantee
from kpnet.models.test_time import TestTime, infer_views

SUFFIX = ".onnx"
KEY = "kpnet"  # of the file's metadata entry
FORMAT = 1  # of the description
INPUTS, POINTS = ("images", "matrices"), "points"
INSTALL = 'pip install "kpnet[export]"'


class Parity(StrictModel):
    """How far an exported model is from `kpnet.Predictor`, as measured when it was written.

    Attributes:
        images: Number of images that it was measured on.
        pixels: Largest distance of two points, in pixels of the original image.
        confidence: Largest difference of two confidences.
        covariance: Largest difference of two covariances, relative to the larger axis of the ellipse squared.
        presence: Largest difference of two probabilities of being there.
        radius: Largest difference of two guaranteed radii, relative to the radius.
        joint_radius: The same of the radii for all points at once.
        worst: Name of the image with the largest distance.
    """

    images: int
    pixels: float
    confidence: float = 0.0
    covariance: float = 0.0
    presence: float = 0.0
    radius: float = 0.0
    joint_radius: float = 0.0
    worst: str = ""


class ExportInfo(StrictModel):
    """What an exported file says of itself, as JSON in its metadata.

    Attributes:
        format: Version of this description.
        kpnet: Version of kpnet that wrote the file.
        names: Names of the K keypoints.
        pairs: Left and right names that a mirrored image swaps.
        edges: Names that a drawing connects.
        input_size: Height and width of the input images.
        any_size: Whether images of other sizes are taken, too.
        size_step: What the sides of those are multiples of.
        bits: Bits that the values of 16-bit image files fill.
        channels: Channels of the input images: 1 for grey, 3 for RGB.
        crop: What the input shows: the whole image, letterboxed (None), or the region around a box.
        box_scale: Size of that region relative to the box.
        window: Frames before and after the predicted one that the head looks at.
        outputs: What the graph gives: `points`, and what the model has of `heads.base.POINT_VALUES`.
        dof: Degrees of freedom of the errors' Student t distribution; None for normal errors.
        flip_test: Whether the graph averages with the mirrored image.
        precision: Precision of the network.
        weights: SHA-256 of the weights that were exported.
        parity: How far it is from `kpnet.Predictor`.
        model: The model's config.
        skeleton: The model's skeleton.
        calibration: The calibration that the graph applies.
        guarantee: The guarantee whose radii the graph gives.
    """

    format: Literal[1] = 1
    kpnet: str
    names: list[str]
    pairs: list[tuple[str, str]]
    edges: list[tuple[str, str]]
    input_size: tuple[int, int]
    any_size: bool
    size_step: int = Field(1, gt=0)
    bits: int = Field(16, ge=8, le=16)
    channels: Literal[1, 3]
    crop: Literal["box", "points", "instance"] | None
    box_scale: float = Field(gt=0)
    window: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
    outputs: tuple[Literal["points", "confidence", "covariance", "presence", "radius", "joint_radius"], ...]
    dof: float | None = Field(gt=2)
    flip_test: bool
    precision: Literal["fp32", "fp16", "int8"]
    weights: str
    parity: Parity | None = None
    model: dict[str, Any]
    skeleton: dict[str, Any]
    calibration: Calibration | None = None
    guarantee: Guarantee | None = None


class ExportedModel(nn.Module):
    """A model in an ONNX file, run by onnxruntime on the CPU, with the same `infer` as a `KeypointModel`.

    Args:
        source: The file, or what is in it.
        name: Name of the file for messages, where `source` is what is in it.

    Attributes:
        info: What the file says of itself.
        config: The config of the model that was exported.
        skeleton: Names of the keypoints.
        frame_window: Frames before and after the predicted one that the head looks at.
        finds_instances: False: the file has the model of one instance, and no finder.
        finder: None.
        instance_calibration: None.

    Raises:
        KpnetError: The file cannot be read, kpnet did not write it or another version did, or onnxruntime is missing.
    """

    place: Tensor
    finds_instances: bool = False
    finder: None = None
    instance_calibration: None = None

    def __init__(self, source: str | Path | bytes, name: str = "the exported model") -> None:
        super().__init__()
        self.name = name if isinstance(source, bytes) else str(source)
        self.session = _open_session(source, self.name)
        self.info, self.config, self.skeleton = _read_info(self.session, self.name)
        self.frame_window = self.info.window
        self.register_buffer("place", torch.empty(0), persistent=False)  # where predictions go

    def run(self, images: np.ndarray, matrices: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph as it is.

        Args:
            images: Uint8 (B, H, W, C), or clips (B, T, H, W, C) as long as the head's window.
            matrices: Float32 (B, 2, 3), from pixels of the original image to pixels of the input.

        Returns:
            What `info.outputs` names, as `kpnet.export.to_onnx` describes it.

        Raises:
            KpnetError: The inputs do not fit the graph.
        """
        try:
            found = self.session.run(None, dict(zip(INPUTS, (images, matrices), strict=True)))
        except Exception as error:  # onnxruntime has no class for all of its errors
            raise KpnetError(f"{self.name}: {first_line(error)}") from None
        return dict(zip(self.info.outputs, found, strict=True))

    @property
    def point_values(self) -> tuple[str, ...]:
        """Names of what `infer` gives for each point besides confidence and covariance."""
        return tuple(name for name in self.info.outputs if name not in (POINTS, "confidence", "covariance"))

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedModel:
        """Return a model of its own for another device; both share the session, which cannot be copied."""
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__, _buffers={"place": self.place.clone()})
        return clone

    @torch.no_grad()
    def infer(self, images: Tensor, test_time: TestTime | None = None) -> Keypoints:
        """Predict keypoints with their uncertainty, as `KeypointModel.infer` does.

        Args:
            images: Images (B, C, H, W), float in [0, 1]; clips (B, T, C, H, W) where the head looks at a window. They
                are rounded to 256 levels, those of image files.
            test_time: Average over mirrored, scaled and shifted views.

        Returns:
            Keypoints (B, K, 2) in [-1, 1] with confidence and covariance where the head has them.

        Raises:
            KpnetError: The images do not fit the model, a prediction is not finite, or the model is calibrated or has a
                guarantee, and the views are not those of it.
        """
        own = TestTime(flip=self.info.flip_test)
        if test_time is None or test_time in (TestTime(), own):
            return self._predict(images)
        made = "is calibrated" if self.info.calibration is not None else "has guaranteed radii"
        if self.info.flip_test or self.info.calibration is not None or self.info.guarantee is not None:
            what = "has the mirrored image inside" if self.info.flip_test else f"{made} for the image alone"
            raise KpnetError(f"{self.name}: {what}: leave out the test-time views (--flip-test, --scales, --shift)")
        return infer_views(self._predict, images, self.skeleton, test_time)

    def _predict(self, images: Tensor) -> Keypoints:
        images = images[None] if images.ndim == 3 else images
        self._check(images)
        frames = 1 + sum(self.frame_window)
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()
        if frames > 1 and pixels.ndim == 4:  # single images are clips without motion
            pixels = np.repeat(pixels[:, None], frames, 1)
        elif frames > 1:
            pixels = np.moveaxis(sliding_window_view(pixels, frames, 1), -1, 2).reshape(-1, frames, *pixels.shape[2:])
        size = (pixels.shape[-3], pixels.shape[-2])
        matrices = np.broadcast_to(np.eye(2, 3, dtype=np.float32), (len(pixels), 2, 3))
        found = {key: torch.from_numpy(each) for key, each in self.run(np.ascontiguousarray(pixels), matrices).items()}
        found["keypoints"] = coordinates.pixel_to_normalized(found.pop(POINTS), size)
        if "covariance" in found:
            scale = coordinates.pixel_distance_to_normalized(torch.ones(2), size)
            found["covariance"] = found["covariance"] * scale[:, None] * scale
        for name in {"radius", "joint_radius"} & found.keys():
            found[name] = found[name] / max(size)
        keypoints = Keypoints(**found, dof=math.inf if self.info.dof is None else self.info.dof)
        check_finite(keypoints, self.name)
        return keypoints.map(lambda values: values.to(self.place.device))

    def _check(self, images: Tensor) -> None:
        clips = images.ndim == 5 and self.frame_window != (0, 0)
        if not (images.ndim == 4 or clips) or images.shape[-3] != self.info.channels:
            raise KpnetError(f"expected images (B, {self.info.channels}, H, W), got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise KpnetError(f"expected float images in [0, 1], got {images.dtype}: divide by 255")
        if clips and images.shape[1] <= sum(self.frame_window):
            needed = 1 + sum(self.frame_window)
            raise KpnetError(f"expected clips of at least {needed} frames, the head's window, got {images.shape[1]}")
        found, own = (images.shape[-2], images.shape[-1]), self.info.input_size
        if self.info.any_size and (found[0] % self.info.size_step or found[1] % self.info.size_step):
            raise KpnetError(f"{self.name}: {size_message(found, self.info.size_step)}")
        if found != own and not self.info.any_size:
            raise KpnetError(
                f"{self.name}: takes images of {own[0]}x{own[1]}, got {found[0]}x{found[1]}: resize them, or export "
                "the model with --any-size"
            )


def _open_session(source: str | Path | bytes, name: str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise KpnetError(f"{name}: needs onnxruntime, which is not installed: {INSTALL}") from None
    if not isinstance(source, bytes):
        try:
            source = Path(source).read_bytes()
        except OSError as error:
            raise KpnetError(f"{name}: {error.strerror or 'cannot be read'}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    # A file from others may name further files with weights: there are none in this place.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no class for all of its errors
        raise KpnetError(
            f"{name}: not a readable ONNX file; export it again with kpnet export ({first_line(error)})"
        ) from None


def _read_info(session: Any, name: str) -> tuple[ExportInfo, ModelConfig, Skeleton]:
    """Return a file's description, and the config and the skeleton in it."""
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is None or tuple(each.name for each in session.get_inputs()) != INPUTS:
        raise KpnetError(f"{name}: an ONNX file, but not one that kpnet export wrote: expected a model of kpnet's")
    try:
        values = json.loads(text)
        json.dumps(values, ensure_ascii=False).encode()  # raises for lone surrogates
    except (ValueError, RecursionError) as error:
        raise KpnetError(f"{name}: its description is damaged ({first_line(error)}); export the model again") from None
    if isinstance(values, dict) and values.get("format") != FORMAT:
        raise KpnetError(
            f"{name}: written by kpnet {values.get('kpnet')} in format {values.get('format')!r}, expected {FORMAT}: "
            "export the model again"
        )
    try:
        info = ExportInfo.model_validate(values)
    except ValidationError as error:
        raise KpnetError(explain_validation_error(error, f"{name}: description", ExportInfo, values)) from None
    try:
        config, skeleton = ModelConfig.model_validate(info.model), Skeleton.load(info.skeleton)
    except ValidationError as error:
        where = f"{name}: description: model"
        raise KpnetError(explain_validation_error(error, where, ModelConfig, info.model)) from None
    except KpnetError as error:
        raise KpnetError(f"{name}: description: {error}") from None
    _check_info(info, config, skeleton, session, name)
    return info, config, skeleton


def _check_info(info: ExportInfo, config: ModelConfig, skeleton: Skeleton, session: Any, name: str) -> None:
    """Raise KpnetError where a description contradicts itself or the graph."""
    outputs = {each.name: each.shape for each in session.get_outputs()}
    frames = (1 + sum(info.window),) if sum(info.window) else ()
    for key, found, expected in (
        ("names", tuple(info.names), skeleton.names),
        ("pairs", tuple(info.pairs), skeleton.pairs),
        ("edges", tuple(info.edges), skeleton.edges),
        ("input_size", info.input_size, config.input_size),
        ("channels", info.channels, config.in_channels),
        ("crop", info.crop, config.crop),
        ("box_scale", info.box_scale, config.box_scale),
        ("outputs", info.outputs, tuple(outputs)),
        ("names", len(info.names), outputs.get(POINTS, [0, 0])[1]),
        ("window", frames, tuple(session.get_inputs()[0].shape[1:-3])),
        ("channels", info.channels, session.get_inputs()[0].shape[-1]),
    ):
        if found != expected:
            raise KpnetError(
                f"{name}: description: {key}: found {shorten(str(found))}, but the rest of the file says "
                f"{shorten(str(expected))}: export the model again"
            )
