"""The estimate of memory before it is taken."""

from __future__ import annotations

import math
import resource
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kpnet import KpnetError
from kpnet.core import memory
from kpnet.core.memory import MemoryLimit, available_memory


def test_the_machine_and_its_limits_bound_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**20 < available_memory() < 2**50
    bounds = {"_machine": 5.0, "_container": math.inf, "_own_limit": 7.0}
    for name, value in bounds.items():
        monkeypatch.setattr(memory, name, lambda value=value: value)
    assert available_memory() == 5
    monkeypatch.setattr(memory, "_own_limit", lambda: -1.0)
    assert available_memory() == 0


def test_the_limit_on_the_address_space_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**60, 2**60))
    assert 2**59 < memory._own_limit() < 2**60
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert memory._own_limit() == math.inf


def test_weights_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 4 * 3 * (10 * 20 + 20) - 1)  # of three layers, less a byte
    with torch.device("meta"), MemoryLimit("the layers"):
        nn.ModuleList(nn.Linear(10, 20) for _ in range(2))
        with pytest.raises(KpnetError, match=r"the layers needs at least 2.58 KiB of memory, 2.58 KiB are available"):
            nn.ModuleList(nn.Linear(10, 20) for _ in range(2))


@pytest.mark.parametrize(("side", "fits"), [(100, True), (101, False)])
def test_a_result_counts_beside_the_weights(monkeypatch: pytest.MonkeyPatch, side: int, fits: bool) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 4 * (100 * 100 + 1))
    image = torch.zeros(1, 1, 1, 1, device="meta")
    with torch.device("meta"), MemoryLimit("it"):
        torch.zeros(1)
        if fits:
            F.interpolate(image, size=(side, side))
        else:
            with pytest.raises(KpnetError, match="it needs at least"):
                F.interpolate(image, size=(side, side))


def test_what_64_bits_cannot_count_is_too_much() -> None:
    with torch.device("meta"), MemoryLimit("the layer"), pytest.raises(KpnetError, match="at least 8 EiB"):
        nn.Linear(2**40, 2**40)


def test_a_control_groups_caches_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory._container() == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    assert memory._container() == 100
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\nactive_file 30\nslab_reclaimable 4\nslab 9\n")
    assert memory._container() == 334
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container() == math.inf
