"""The C library's allocator, which by default hands the memory of each large tensor back to the system."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_ABOVE = 2**30  # bytes from which memory is still handed back
_ABOVE_AT_MOST = 2**25  # in older versions of glibc
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep the memory that tensors on the CPU free, for the next ones, instead of handing it back to the system.

    Feature maps are so large that glibc maps memory for each of them and unmaps it again, and the system clears every
    page: a quarter of the processor time of a prediction. The `kpnet` command calls this function for itself. `import
    kpnet` does not, because it changes the allocator of the whole process for good: call it once at the start of a
    program that predicts or trains on a CPU. The process then holds as much memory as it has needed at most so far.

    Returns:
        Whether the allocator was changed; False where the C library is not glibc, such as on Windows and macOS.

    Example:
        ```python
        kpnet.keep_freed_memory()
        predictor = kpnet.Predictor("runs/facial_heatmap")
        ```
    """
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 (other C libraries may have a mallopt of another meaning)
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _ABOVE) or mallopt(_M_MMAP_THRESHOLD, _ABOVE_AT_MOST)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, _NEVER))
