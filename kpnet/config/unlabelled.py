"""The typed schema of learning from unlabelled images: which images, and how they count."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, field_serializer
from pydantic_core import PydanticCustomError

from kpnet.config.fields import FileEntry, FilePath, Fraction, NonNegative, Positive, Rate, StrictModel, file_entries

VIDEO_FRAMES = 500  # that are taken of a video, unless a number is stated


class UnlabelledFile(FileEntry):
    """Images without labels: one file or folder."""

    file: FilePath
    """Under `root`: a folder of images, a video, an npz with an array `images`, or a CSV of pixels (column `Image`) or
    of file names (column `image`)."""
    frames: Positive = VIDEO_FRAMES
    """Number of frames to take from a video, evenly spaced."""


def _files(value: Any) -> Any:
    """Return `file_entries`, and refuse an empty list."""
    if isinstance(value, (list, tuple)) and not value:
        raise PydanticCustomError("no_file", "expected at least one file or folder; null for none")
    return file_entries(value)


_Forms = str | UnlabelledFile | list[str | UnlabelledFile] | None  # for the JSON schema
UnlabelledFiles = Annotated[list[UnlabelledFile], BeforeValidator(_files, json_schema_input_type=_Forms)]


class WithUnlabelled(StrictModel):
    """The option `unlabelled` of a `data` section."""

    unlabelled: UnlabelledFiles = Field(default_factory=list)
    """Images without labels to learn from as well: one file or folder, or a list; see `train.unlabelled`."""

    @field_serializer("unlabelled", mode="wrap")
    def _unlabelled_as_given(self, value: list[UnlabelledFile], handler: SerializerFunctionWrapHandler) -> Any:
        entries = handler(value)
        return entries[0] if len(entries) == 1 else entries or None


class UnlabelledTraining(StrictModel):
    """Learning from unlabelled images: a teacher, the average of the weights, gives points that the student learns.

    Tarvainen and Valpola 2017, Mean teachers are better role models.
    """

    weight: NonNegative = 1.5
    """Weight of the loss on unlabelled images, beside 1 for the labelled ones."""
    batch_size: Positive | None = None
    """Unlabelled images per step; null: as many as `train.batch_size`."""
    start: Fraction = 0.05
    """Fraction of the training before unlabelled images count."""
    ramp: Fraction = 0.25
    """Fraction of the training, after `start`, in which their weight rises linearly; both together at most 1."""
    agreement: Rate = 0.03
    """Distance between the teacher's points in the image and its mirror image, as a fraction of the image's longer
    side, at which a point's weight is 0.6 of that of points that agree."""
    transforms: list[str | dict[str, Any]] | None = None
    """Augmentation of the images that the student sees; null: `data.transforms`."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Decay of the teacher's average; not used with `train.average: ema`, which is the teacher itself."""
