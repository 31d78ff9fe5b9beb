"""Progress bars on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """Show a progress bar on stderr while items are iterated; return them as they are where that is no terminal."""
    from rich.progress import track

    from kpnet.core.console import PlainConsole

    console = PlainConsole(stderr=True)
    if not console.is_terminal:  # a disabled bar of older versions of rich still prints an empty line
        return items
    return track(items, description, total=total, console=console, transient=True)
