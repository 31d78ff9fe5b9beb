"""Read text files and JSON that users give, whatever is in them."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree

from kpnet.core.display import display_name
from kpnet.core.errors import KpnetError, show

BYTE_ORDER_MARKS = {  # the longer ones first, as UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path, expected: str, limit: int | None = None) -> str:
    """Read a text file: UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Args:
        path: The file.
        expected: What the file should be, for the error, such as `"a YAML config"`.
        limit: Largest size in bytes. None: any.

    Returns:
        The text, without a byte order mark, its line breaks as `\\n`.

    Raises:
        KpnetError: There is no such file, it is no regular file, it is too large, or it is not text.
    """
    if not path.is_file():  # a FIFO would wait for ever
        problem = "not a file" if path.exists() else "no such file"
        raise KpnetError(f"{path}: {problem}; expected {expected}")
    if limit is not None and path.stat().st_size > limit:
        size = path.stat().st_size
        raise KpnetError(f"{path}: {size / 2**20:.1f} MiB, more than {limit / 2**20:g} MiB; expected {expected}")
    data = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        where, byte = (f"line {line}", f"0x{data[error.start]:02x}") if encoding.startswith("utf-8") else ("it", "it")
        reason = f"{where} has the byte {byte}, which is not UTF-8" if byte != "it" else f"it is not {encoding.upper()}"
        raise KpnetError(f"{path}: not a text file: {reason}; expected {expected}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise KpnetError(f"{path}: not a text file: line {line} has a NUL character; expected {expected}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, expected: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        expected: What the file should be, for the error.

    Returns:
        The values. NaN and infinities, which JSON lacks and Python writes, are read as such.

    Raises:
        KpnetError: The file cannot be read, it is not JSON, or a key stands twice in an object.
    """
    return parse_json(read_text(path, expected), str(path), expected)


def read_xml(path: Path, expected: str) -> ElementTree.Element:
    """Read an XML file. Entities outside the file are not followed, and those that grow without bounds are refused.

    Args:
        path: The file.
        expected: What the file should be, for the error.

    Returns:
        The root element.

    Raises:
        KpnetError: The file cannot be read, or it is not XML.
    """
    text = read_text(path, expected)
    try:
        return ElementTree.fromstring(text.encode("utf-8"), ElementTree.XMLParser(encoding="utf-8"))
    except (ElementTree.ParseError, ValueError) as error:
        raise KpnetError(f"{path}: not XML: {error}; expected {expected}") from None


def parse_json(text: str, where: str, expected: str) -> Any:
    """Parse JSON, as `read_json` does.

    Args:
        text: The JSON.
        where: The file or option that it is from, for the error.
        expected: What it should be, for the error.

    Returns:
        The values.

    Raises:
        KpnetError: It is not JSON, or a key stands twice in an object.
    """

    def no_json(reason: str, line: str = "") -> NoReturn:
        raise KpnetError(f"{where}{line}: not JSON: {reason}; expected {expected}") from None

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            no_json(f'the key "{display_name(twice)}" stands twice in {show(values)}')
        return values

    try:
        return json.loads(text, object_pairs_hook=collect)
    except json.JSONDecodeError as error:
        no_json(error.msg, f", line {error.lineno}")
    except RecursionError:
        no_json("it is nested too deeply")
    except KpnetError:
        raise
    except ValueError:
        no_json("a number has too many digits")
