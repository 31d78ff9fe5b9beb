"""The console that every command and training prints with."""

from __future__ import annotations

import logging
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from kpnet.core.display import one_line, printable


class PlainConsole(Console):
    """A console that prints texts as they are: no markup, emoji codes or highlighting, no foreign control characters.

    Args:
        **options: Options of rich's `Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text that rich prints for a string: a line, or a cell of a table."""
        return super().render_str(printable(text), **options)


class OneLineFormatter(logging.Formatter):
    """Formatter of log messages: each on one line, without foreign control characters and passwords."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message of a record."""
        return one_line(super().format(record))


def echo(text: str, *, error: bool = False) -> None:
    """Print a text with names that a user's files chose.

    Args:
        text: One or several lines.
        error: Print to stderr.
    """
    print(printable(text), file=sys.stderr if error else sys.stdout)
