"""What a `kpnet` command did."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Result(NamedTuple):
    code: int
    out: str
    err: str

    def refused(self, *expected: str) -> None:
        """Exit code 2 and one line on stderr with all of `expected`."""
        assert self.code == 2, self
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("kpnet: ")
        assert "Traceback" not in self.err
        for word in expected:
            assert word in self.err, f"{word!r} is not in {self.err!r}"


Run = Callable[..., Result]
