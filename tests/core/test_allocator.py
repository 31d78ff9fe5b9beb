"""The allocator keeps what tensors free."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

import kpnet

# How often the system gives a page to a program that frees and takes a map of 64 MiB ten times, once it is warm.
PAGES = """
import resource, sys, kpnet, torch
if sys.argv[1] == "keep":
    assert kpnet.keep_freed_memory()
for round in range(20):
    torch.ones(2**24)
    if round == 9:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again() -> None:
    faults = {}
    for mode in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", PAGES, mode], capture_output=True, text=True, check=True)
        faults[mode] = int(done.stdout)
    assert faults["keep"] < 1000  # a fresh map has up to 16384 pages of 4 KiB each time
    assert faults["leave"] > 10 * faults["keep"]


@pytest.mark.parametrize("functions", [{}, {"mallopt": lambda *_: 1}])
def test_other_c_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch, functions: dict[str, object]) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: type("Library", (), functions))
    assert not kpnet.keep_freed_memory()


def test_older_versions_of_glibc_take_32_mib_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[int, int] = {}

    class Library:
        gnu_get_libc_version = None

        @staticmethod
        def mallopt(option: int, value: int) -> int:
            if option == -3 and value > 2**25:
                return 0
            taken[option] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library)
    assert kpnet.keep_freed_memory()
    assert taken == {-3: 2**25, -1: 2**31 - 1}
