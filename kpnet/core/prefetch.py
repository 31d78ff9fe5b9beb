"""Work that is done in threads before its result is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Iterator[tuple[T, R]]:
    """Yield each item with the result of a function, which threads compute for the next items meanwhile.

    Args:
        function: What is computed; it should release the interpreter's lock, as reading and decoding do.
        items: The items, which are iterated in the caller's thread, a few at a time.
        threads: Number of threads.
        ahead: Number of items, at least one, whose results are computed before they are asked for.

    Yields:
        Items and results, in the order of the items. What the function raises is raised here, at its item's turn.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    pool = ThreadPoolExecutor(threads, "kpnet-ahead")
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > ahead:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)
