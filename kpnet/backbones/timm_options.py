"""The options of a config that may go to timm: those of the network's architecture, as plain values."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import timm
from torch import nn

from kpnet.core.errors import KpnetError, did_you_mean, shorten

SET_BY_KPNET = frozenset({"pretrained", "features_only", "in_chans", "out_indices", "img_size", "dynamic_img_size"})
# Parameters of networks that are no choice of architecture.
_NO_OPTIONS = {"self", "num_classes", "device", "dtype", "input_fmt", "output_fmt", "feature_location"} | SET_BY_KPNET


def check_timm_options(name: str, options: Mapping[str, Any]) -> None:
    """Check that the options of a timm network are plain values of its architecture.

    timm passes all that it is given to many functions. Some of their parameters name files, addresses or configs, which
    are read or run; so only the parameters of the network's own classes are options, and no value is a mapping.

    Args:
        name: A network of timm, with or without a tag.
        options: Names and values.

    Raises:
        KpnetError: An option is set by kpnet, is none of the network's, or has a value that is not plain.
    """
    where = f'backbone "{name}"'
    known = timm_options(name) if options else set()
    for key, value in options.items():
        if key in SET_BY_KPNET:
            raise KpnetError(f'{where}: "{key}" is set by kpnet (in_channels, input_size, pretrained)')
        if key not in known:
            raise KpnetError(
                f'{where}: unknown key "{shorten(str(key))}"{did_you_mean(key, known)}; weights are named by '
                f"model.pretrained alone; options of this network: {', '.join(sorted(known)) or 'none'}"
            )
        if not _is_plain(value):
            raise KpnetError(
                f'{where}: "{key}": expected a number, a name or a list of them, found a {type(value).__name__}'
            )


def timm_options(name: str) -> set[str]:
    """Return the names of the options of a timm network: its parameters that choose an architecture.

    Args:
        name: A network of timm, with or without a tag.

    Returns:
        The keyword parameters of the networks that the module of `name` uses, and the fields of its configs.
    """
    entry = timm.models.model_entrypoint(name.partition(".")[0])
    module = sys.modules[entry.__module__]
    names = _keywords(entry)
    if hasattr(module, "resolve_bn_args"):  # the builders of such a module take these, which no signature shows
        names |= {"bn_eps", "bn_momentum"}
    for each in vars(module).values():
        if inspect.isclass(each) and issubclass(each, nn.Module):
            own = set[str]().union(*(_keywords(vars(c)["__init__"]) for c in each.__mro__ if "__init__" in vars(c)))
            names |= own if "in_chans" in own else set()  # networks; the others are their layers
        elif inspect.isclass(each) and dataclasses.is_dataclass(each) and each.__module__ == module.__name__:
            names |= {field.name for field in dataclasses.fields(each)}
    return names - _NO_OPTIONS - _loading()


def _keywords(function: Callable[..., Any]) -> set[str]:
    """Return the names of the parameters that have a default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a class written in C
        return set()
    return {p.name for p in parameters if p.default is not p.empty}


def _loading() -> set[str]:
    """Return the names of all that timm's functions for finding and loading weights take."""
    functions = (timm.create_model, timm.models.build_model_with_cfg, timm.models.load_pretrained)
    config = {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)}
    return config.union(*(_keywords(function) for function in functions))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(each, (bool, int, float, str)) or each is None or _is_plain(each) for each in value)
    return value is None or isinstance(value, (bool, int, float, str))
