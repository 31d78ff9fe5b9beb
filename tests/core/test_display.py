"""Names that a file chose, as they are printed, written into messages and drawn."""

from __future__ import annotations

import io
import re

import pytest
from rich.table import Table

from kpnet.core.console import PlainConsole
from kpnet.core.display import display_name, figure_text, one_line, printable, redact
from kpnet.plot.figure import Figure

HOSTILE = {
    "colour": "\x1b[31mred",
    "window title": "\x1b]0;owned\x07",
    "one-byte escape": "\x9b2J",
    "carriage return": "good\rbad",
    "bidi": "a\u202egnp.exe",
    "surrogate": "caf\udce9.png",
    "high surrogate": "\ud800",
    "NUL": "a\0b",
    "tag": "\U000e0041",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_becomes_text_that_any_terminal_shows(name: str) -> None:
    for shown in (printable(name), display_name(name), one_line(name), figure_text(name)):
        assert shown.isprintable()
        shown.encode()


@pytest.mark.parametrize(
    "name",
    ["nose", "左目", "café", "😀", "چشم\u200cچپ", "Screenshot 9.41\u202fPM", "左\u3000目", "Zoë’s eye 1/2 [left]"],
)
def test_an_honest_name_stays(name: str) -> None:
    assert display_name(name) == name


def test_the_byte_of_a_file_name_is_shown_as_such() -> None:
    assert display_name(b"caf\xe9.png".decode(errors="surrogateescape")) == r"caf\xe9.png"


def test_a_long_name_keeps_its_ends() -> None:
    shown = display_name("a" * 500 + "b" * 500, 40)
    assert re.fullmatch("a+…b+", shown)
    assert len(shown) == 40


def test_a_message_is_one_line() -> None:
    assert one_line("first\r\n   second\u2028third ") == "first second third"
    assert len(one_line("x" * 10**6)) == 2000


@pytest.mark.parametrize("part", ["x", " ", "://", "\n ", "password=", "\x1b", "a://b:c"])
def test_a_message_of_megabytes_is_a_short_line(part: str) -> None:
    assert len(one_line(part * 10**6)) <= 2000


@pytest.mark.parametrize(
    ("text", "hidden", "kept"),
    [
        ("mysql://me:pass@host/db", "pass", "host/db"),
        ("postgresql+psycopg2://me:p/a@s@host:5432/db", "p/a@s", "host:5432/db"),
        ("https://token@example.org/x", "token", "example.org/x"),
        ("cannot open 'http://a:b1@c' or d", "b1", "' or d"),
        ("http://host/x?api_key=abc&y=1", "abc", "y=1"),
        ("mysql://host/db?password=hunter2", "hunter2", "host"),
    ],
)
def test_credentials_are_hidden(text: str, hidden: str, kept: str) -> None:
    assert hidden not in redact(text)
    assert kept in redact(text)


@pytest.mark.parametrize("text", ["see https://kpnet.org and a@b", "train.lr=1 tokens=3", "a@b.png"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("name", ["a[/b]", "[x]", "[link=http://a]b[/link]", ":smile:", "\x1b[31m"])
def test_the_console_prints_names_as_they_are(name: str) -> None:
    console = PlainConsole(file=io.StringIO(), width=60)
    table = Table(name)
    table.add_row(name)
    console.print(name)
    console.print(table)
    assert console.file.getvalue().count(printable(name)) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["$x$", r"a_$1_b_$2", r"\foo$ $\bar$", r"\$", "$", "a[/b]", "_nose", "\x1b[31m"])
def test_a_figure_draws_names_as_they_are(name: str) -> None:
    figure = Figure(figsize=(2, 2))
    axes = figure.add_subplot()
    axes.set_title(figure_text(name))
    axes.plot([0, 1], label=figure_text(name))
    legend = axes.legend()
    figure.savefig(io.BytesIO(), format="png")
    text, formula = axes.title._preprocess_math(axes.title.get_text())  # type: ignore[attr-defined]
    assert (text.strip(), formula) == (printable(name), False)
    assert len(legend.get_texts()) == 1
