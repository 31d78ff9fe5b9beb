"""Results that threads compute ahead: in order, a bounded number, and with the errors of their items."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kpnet.core.prefetch import map_ahead


def test_results_come_in_the_order_of_the_items() -> None:
    def wait(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number**2

    assert list(map_ahead(wait, range(20), threads=4, ahead=6)) == [(number, number**2) for number in range(20)]
    assert list(map_ahead(wait, [], threads=1, ahead=1)) == []


def test_no_more_items_are_taken_than_asked_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = map_ahead(str, items(), threads=2, ahead=3)
    for number in range(5):
        assert next(results) == (number, str(number))
        assert len(taken) == number + 4


def test_the_next_items_are_computed_while_one_is_used() -> None:
    second = threading.Event()

    def note(number: int) -> int:
        if number == 1:
            second.set()
        return number

    results = map_ahead(note, range(3), threads=1, ahead=1)
    assert next(results)[0] == 0
    assert second.wait(30)


def test_an_error_is_raised_at_its_turn_and_ends_the_threads() -> None:
    before = threading.active_count()
    results = map_ahead(lambda number: 1 // number, [1, 0, 2], threads=2, ahead=2)
    assert next(results) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before
