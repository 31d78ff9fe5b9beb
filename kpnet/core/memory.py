"""How much memory there is, and a stop before torch takes more than that."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kpnet.core.errors import KpnetError

_NAMES = ("empty", "empty_strided", "zeros", "ones", "full", "rand", "randn", "randint", "eye", "arange", "linspace")
_GROUP = Path("/sys/fs/cgroup")
_NEW = {getattr(torch.ops.aten, name) for name in _NAMES}  # operations that make a tensor from nothing


def available_memory() -> float:
    """Return how many bytes of memory this process may still take.

    Returns:
        The least that the machine, its container and the process's own limits leave; infinite where they say nothing.
    """
    return max(0.0, min(_machine(), _container(), _own_limit()))


class MemoryLimit(TorchDispatchMode):
    """Adds up the memory that code on the meta device would take, and raises a KpnetError beyond what there is.

    Linux grants more memory than it has, and kills the process that then uses it: there is no error to catch. Tensors
    on the meta device have no memory. New ones, such as a network's weights, are added up; each operation needs the
    memory of its result besides.

    Args:
        what: What needs the memory, for the message.

    Example:
        ```python
        with torch.device("meta"), MemoryLimit("the layer"):
            nn.Linear(10**6, 10**6)  # the layer needs at least 3.64 TiB of memory, 20 GiB are available: …
        ```
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.limit = available_memory()
        self.made = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            result = func(*args, **(kwargs or {}))
        except (RuntimeError, OverflowError) as error:
            if "overflow" in str(error) or "too large" in str(error):  # its bytes cannot be counted in 64 bits
                self._check(math.inf)
            raise
        needed = sum(_bytes(each) for each in tree_leaves(result))
        if func.overloadpacket in _NEW:
            self.made += needed
            self._check(self.made)
        elif not func._schema.is_mutable and not func.is_view:
            self._check(self.made + needed)
        return result

    def _check(self, needed: float) -> None:
        if needed > self.limit:
            raise KpnetError(
                f"{self.what} needs at least {_format(needed)} of memory, {_format(self.limit)} are available: "
                "use smaller numbers"
            )


def _bytes(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size() if isinstance(tensor, Tensor) else 0


def _format(number: float) -> str:
    """Return a number of bytes with its unit, such as `1.5 GiB`."""
    if math.isinf(number):
        return "8 EiB"
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(len(units) - 1, int(math.log(max(number, 1), 1024)))
    return f"{number / 1024**power:.3g} {units[power]}"


def _machine() -> float:
    """Return the bytes that the machine has free, or has at all where it does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError, AttributeError):  # AttributeError: Windows has no sysconf
        return math.inf


def _container() -> float:
    """Return the bytes that the control group leaves, with those that the kernel takes back from its caches."""
    try:
        free = int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):  # ValueError: "max"
        return math.inf
    try:
        counts = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        cached = sum(int(counts.get(name, 0)) for name in ("inactive_file", "active_file", "slab_reclaimable"))
    except (OSError, ValueError):
        cached = 0
    return float(free + cached)


def _own_limit() -> float:
    """Return the bytes that the limit on this process's address space leaves."""
    try:
        import resource  # Windows has none

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        return math.inf
    return math.inf if limit == resource.RLIM_INFINITY else float(limit - used)
