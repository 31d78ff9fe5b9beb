"""Runtime checks: the device, evaluation mode, and whether torch is tracing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode; on exit, every module returns to its former mode."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def evaluation_copy(model: M) -> M:
    """Return a copy of a model in eval mode that shares its parameters and buffers.

    The model itself stays as it is, so that it can be trained, or used by other threads, at the same time. A copy takes
    about a millisecond and no memory for weights; it is not compiled, even if the model is.

    Args:
        model: The model.

    Returns:
        The copy, or the model itself where all of its modules are in eval mode.
    """
    if not any(module.training for module in model.modules()):
        return model
    copy = _copy(model)
    for module in copy.modules():
        module.training = False
    return copy


def _copy(model: M) -> M:
    """Return a copy that shares its parameters and buffers, and nothing that a pass replaces; it is not compiled."""
    copies = {module: object.__new__(type(module)) for module in model.modules()}
    for module, copy in copies.items():
        copy.__dict__.update({name: _of_copies(value, copies) for name, value in vars(module).items()})
        copy.__dict__.update(_compiled_call_impl=None)
    return cast(M, copies[model])


def _of_copies(value: Any, copies: dict[nn.Module, nn.Module]) -> Any:
    """Return an attribute for a copy: modules in it, and methods of modules, are those of the copies."""
    if isinstance(value, nn.Module):
        return copies.get(value, value)
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, copies.get(value.__self__, value.__self__))
    if type(value) in (list, tuple):
        return type(value)(_of_copies(each, copies) for each in value)
    if isinstance(value, dict):  # of parameters, buffers, modules and hooks too, which a copy may replace for itself
        copied = value.copy()
        copied.update({key: _of_copies(each, copies) for key, each in value.items()})
        return copied
    return value


def shape_copy(module: M) -> M:
    """Return a copy of a module of which parameters and buffers are shapes without values, on the device `meta`.

    What is one tensor, or one module, under several names is one in the copy. The module itself stays as it is,
    whatever a forward pass of the copy writes.

    Args:
        module: The module.

    Returns:
        The copy, in the same mode, all of whose parameters that can have a gradient want one.
    """
    copy = _copy(module)
    shapes: dict[int, Tensor] = {}
    for part in copy.modules():
        for name, value in part._parameters.items():
            if value is not None:
                shape = value.detach().to("meta")
                learns = shape.is_floating_point() or shape.is_complex()
                part._parameters[name] = cast(
                    nn.Parameter, shapes.setdefault(id(value), nn.Parameter(shape, requires_grad=learns))
                )
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = shapes.setdefault(id(buffer), buffer.detach().to("meta"))
    return copy


def is_tracing() -> bool:
    """Return whether torch is tracing, compiling or transforming the current call.

    All of the code must then be torch's own operations.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0  # make_fx, fake tensors
    )
