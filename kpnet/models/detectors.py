"""Ready detection networks of torchvision, which find the instances for a model of crops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet.backbones.library import download_message
from kpnet.backbones.weights import load_matching_weights, load_weights
from kpnet.config.fields import Part
from kpnet.coordinates import Size
from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.registry import split_spec
from kpnet.core.validation import check_options
from kpnet.heads.centers import Detections

PREFIX = "torchvision/"
# Their published weights were trained with batch norms without an epsilon.
_WITHOUT_EPSILON = ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet")


class InputConfig(NamedTuple):
    """What a detector looks at, as in `ModelConfig`.

    Attributes:
        in_channels: Channels of the images: colour.
        input_size: Height and width of the images in pixels.
    """

    in_channels: int
    input_size: Size


class Detector(nn.Module):
    """A detection network of torchvision with its published weights, as the finder of a model of crops.

    It is not trained: it stays in eval mode, and its parameters get no gradient. Its weights are saved with the model,
    so that a run needs no download to predict, and finds the same instances as long as it is kept.

    Args:
        spec: `torchvision/NAME`, or a mapping with this name and the options.
        input_size: Height and width of its images in pixels.
        weights: True: the published weights; a path: those of a file; False: none, as those of a saved model are
            loaded next.

    Attributes:
        config: What it looks at.
        label: Name of the class that it finds.
        threshold: Least score of an instance.
        max_instances: How many instances of an image it finds at most.

    Raises:
        KpnetError: There is no such network, class or option, or the weights cannot be loaded.
    """

    def __init__(self, spec: Part, input_size: Size, weights: bool | str | Path = True) -> None:
        super().__init__()
        import torchvision  # more than a second that few models need

        name, options = split_spec(spec, "model.instances.detector")
        options = check_options(_options, options, f'detector "{name}"')
        short = name.removeprefix(PREFIX)
        if name not in detector_names():
            raise KpnetError(f'model.instances.detector: unknown "{name}"{did_you_mean(name, detector_names())}')
        published = torchvision.models.get_model_weights(short).DEFAULT
        self.name, self.config = name, InputConfig(3, input_size)
        self.label, self.threshold, self.max_instances = _options(**options)
        categories = published.meta["categories"]
        if self.label not in categories[1:]:
            known = [each for each in categories[1:] if each != "N/A"]
            raise KpnetError(
                f'{name}: label: it knows no "{self.label}"{did_you_mean(self.label, known)}; expected one of '
                f"{len(known)} classes, such as {', '.join(known[:4])}"
            )
        self._number = categories.index(self.label)
        state: Mapping[str, Tensor] | None = None
        if weights is True:
            state = _published(name, published)
        elif weights is not False:
            state = load_weights(weights)
        sides: dict[str, int] = {"min_size": min(input_size), "max_size": max(input_size)}
        self.net = torchvision.models.get_model(
            short,
            weights=None,
            weights_backbone=None,
            num_classes=len(categories),
            **({} if short.startswith("ssd") else sides),  # ssd has one size
        )
        if short.startswith(_WITHOUT_EPSILON) and "resnet50_fpn" in short and not short.endswith("_v2"):
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = 0.0
        if state is not None:
            load_matching_weights(self.net, state, name if weights is True else str(weights))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Detector:
        """Stay in eval mode.

        Args:
            mode: Is not used.

        Returns:
            The detector itself.
        """
        super().train(False)
        return self

    @torch.no_grad()
    def find(
        self, images: Tensor, threshold: float | None = None, max_instances: int | None = None
    ) -> list[Detections]:
        """Find the instances of images; see `KeypointModel.find`.

        Args:
            images: Images (B, 3, H, W), float in [0, 1].
            threshold: Least score of an instance; None: the detector's own.
            max_instances: How many are kept at most; None: the detector's own number.

        Returns:
            The instances of each image, best first: boxes and scores.
        """
        least = self.threshold if threshold is None else threshold
        most = self.max_instances if max_instances is None else max_instances
        size = torch.tensor([images.shape[-1], images.shape[-2]] * 2, device=images.device)
        found = []
        for each in self.net(list(images.float())):
            kept = (each["labels"] == self._number) & (each["scores"] >= least)
            boxes, scores = each["boxes"][kept], each["scores"][kept]
            best = scores.argsort(descending=True, stable=True)[:most]
            found.append(Detections(2 * boxes[best] / size - 1, scores[best]))
        return found


def detector_names() -> list[str]:
    """Return the `torchvision/NAME` of every network that can be a detector."""
    import torchvision

    return [PREFIX + name for name in torchvision.models.list_models(module=torchvision.models.detection)]


def _options(
    *,
    label: str = "person",
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5,
    max_instances: Annotated[int, Field(gt=0, le=1000)] = 100,
) -> tuple[str, float, int]:
    return label, threshold, max_instances


def _published(name: str, weights: Any) -> Mapping[str, Tensor]:
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except Exception as error:  # what a download raises is of many classes
        raise KpnetError(download_message(name, error).replace("pretrained", "model.instances.pretrained")) from None
