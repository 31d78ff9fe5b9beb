"""Networks of timm: downloads without a network, and maps that threads share."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from kpnet import KpnetError
from kpnet.backbones import build_backbone


def test_no_connection_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Any] = []

    class Unplugged:
        def head(self, url: str, timeout: float) -> None:
            requests.append(url)
            raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.utils.get_session", Unplugged)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(KpnetError, match=r"no connection to https://\S+: no route to host\); fetch the file") as caught:
        build_backbone("vit_tiny_patch16_224", 3, True, (32, 32))
    assert len(requests) == 1
    assert "\n" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.slow  # its networks are large
def test_threads_do_not_mix_the_maps_that_hooks_keep() -> None:
    net = build_backbone("legacy_xception", 3, input_size=(64, 64)).eval()
    assert net._has_hooks
    images = [torch.rand(1, 3, 64, 64) for _ in range(2)]
    failed: list[int] = []

    def run(i: int) -> None:
        for _ in range(4):
            with torch.no_grad():
                failed.extend([i] * (not torch.equal(net(images[i])[-1], expected[i])))

    with torch.no_grad():
        expected = [net(image)[-1] for image in images]
    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
