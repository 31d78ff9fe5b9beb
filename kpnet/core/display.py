"""Texts that a user's files chose, made safe to show: names on a terminal, in messages and in figures."""

from __future__ import annotations

import re
from unicodedata import category

NAME_LENGTH, MESSAGE_LENGTH = 120, 2000
_KEPT = "\n\u200c\u200d"  # line breaks, and what joins letters in Persian, in Indic scripts and in emoji
_CREDENTIALS = re.compile(r"(?<=://)(?<!hf://)[^\s'\"<>]{1,500}@")  # hf://OWNER/NAME@REVISION has none
_SECRETS = re.compile(r"((?:password|passwd|pwd|secret|token|api_?key)=)[^\s&;'\"]+", re.IGNORECASE)


def printable(text: str) -> str:
    r"""Replace what a terminal would obey or could not encode by its escape, and keep line breaks.

    Args:
        text: Any text, such as a file name with bytes that are no UTF-8.

    Returns:
        The text, with control characters, bidirectional controls and lone surrogates as `\x1b`, `\u202e` or `\xe9`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _KEPT or category(c) == "Zs" else _escape(c) for c in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def redact(text: str) -> str:
    """Replace the user name and password of addresses, and the values of secrets such as `token=…`, by `***`.

    Args:
        text: Any text that may hold addresses.

    Returns:
        The text without them.
    """
    return _SECRETS.sub(r"\1***", _CREDENTIALS.sub("***@", text))


def display_name(text: object, limit: int = NAME_LENGTH) -> str:
    """Return a name that a user's file chose, printable, on one line and bounded.

    Args:
        text: The name of a point, image, config or file.
        limit: Characters to keep; the middle of a longer name becomes `…`.

    Returns:
        The name, safe to print and to write into a message.
    """
    name = _without_middle(str(text), limit)
    return _without_middle(printable(name.replace("\n", "\\n")), limit)  # escapes are longer than what they stand for


def _without_middle(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[len(text) - (limit - limit // 2 - 1) :]}"


def figure_text(text: str) -> str:
    """Return a text for a figure of matplotlib: printable, its dollars no formulas, and shown in a legend.

    Args:
        text: A title, or the name of a line.

    Returns:
        The text. matplotlib's legends leave out names that begin with an underscore, so that it begins with a space.
    """
    shown = printable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def one_line(text: object, limit: int = MESSAGE_LENGTH) -> str:
    """Return a message on one line: line breaks become spaces; it is printable, bounded and without passwords.

    Args:
        text: The message.
        limit: Characters to keep; the middle of a longer message becomes `…`.

    Returns:
        The message.
    """
    lines = str(text)[: 10 * limit].splitlines()
    return display_name(redact(" ".join(filter(None, map(str.strip, lines)))), limit)
