"""What every decoding of a map to a point promises."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.blobs import DECODERS, Decoder, local
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from kpnet import decoding
from kpnet.coordinates import normalized_to_pixel

every_decoder = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())


@every_decoder
def test_a_wrong_rank_is_refused(decode: Decoder) -> None:
    with pytest.raises(ValueError, match=r"\(B, K, h, w\), got \(3, 5, 6\)"):
        decode(torch.randn(3, 5, 6))
    with pytest.raises(ValueError, match=r"\(B, K, h, w\), got \(2, 3, 0, 6\)"):
        decode(torch.randn(2, 3, 0, 6))


@every_decoder
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (2, 5), (3, 3), (1, 130)])
def test_thin_maps(decode: Decoder, size: tuple[int, int]) -> None:
    """A sure cell is found wherever it is, and an empty batch gives an empty result."""
    cells = size[0] * size[1]
    for background in (-30.0, -math.inf):
        maps = torch.full((cells, cells), background).fill_diagonal_(0).view(cells, 1, *size)
        expected = torch.stack([torch.arange(cells) % size[1], torch.arange(cells) // size[1]], -1).float()
        torch.testing.assert_close(normalized_to_pixel(decode(maps), size)[:, 0], expected, atol=0.26, rtol=0)
    assert decode(maps[:0]).shape == (0, 1, 2)
    assert decode(maps[:, :0]).shape == (cells, 0, 2)


@every_decoder
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_map_gives_nan_and_it_alone(decode: Decoder, bad: float) -> None:
    maps = torch.randn(3, 4, 8, 9)
    expected = decode(maps)
    broken = maps.clone()
    broken[1, 2, 7, 0] = bad
    broken[2, 0] = -math.inf
    found = decode(broken)
    hit = torch.zeros(3, 4, 2, dtype=torch.bool)
    hit[1, 2] = hit[2, 0] = True
    assert found[hit].isnan().all()
    torch.testing.assert_close(found[~hit], expected[~hit])


@every_decoder
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_precision_of_the_answer(decode: Decoder, dtype: torch.dtype) -> None:
    maps = (3 * torch.randn(2, 3, 12, 9)).to(dtype)
    expected = decode(maps.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decode(maps)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found, expected.to(found.dtype), atol=1e-4, rtol=0)


@every_decoder
def test_each_map_is_its_own(decode: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(5, 4, 6, 7)
    together = decode(maps.to(memory_format=torch.channels_last))
    monkeypatch.setattr(decoding, "_CHUNK_BYTES", 1)
    torch.testing.assert_close(decode(maps), together)
    for b in range(5):
        for k in range(4):
            torch.testing.assert_close(decode(maps[b : b + 1, k : k + 1])[0, 0], together[b, k])


@every_decoder
@given(st.integers(0, 2**32), st.sampled_from([(6, 7), (3, 16), (1, 9), (2, 2)]))
@settings(max_examples=20)
def test_mirror_equivariance(decode: Decoder, seed: int, size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    xy = decode(maps)
    torch.testing.assert_close(decode(maps.flip(-1)), xy * torch.tensor([-1, 1]), atol=1e-12, rtol=0)
    torch.testing.assert_close(decode(maps.flip(-2)), xy * torch.tensor([1, -1]), atol=1e-12, rtol=0)


@every_decoder
@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 9))
@settings(max_examples=20)
def test_shift_equivariance(decode: Decoder, seed: int, right: int, down: int) -> None:
    """Points lie well inside: each decoder's window, and the blur, stay on the map."""
    size = (24, 27)
    maps = torch.full((1, 2, *size), -60.0, dtype=torch.float64)
    maps[..., 5:10, 5:10] = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    moved = normalized_to_pixel(decode(maps.roll((down, right), (-2, -1))), size)
    expected = normalized_to_pixel(decode(maps), size) + torch.tensor([right, down])
    torch.testing.assert_close(moved, expected, atol=1e-9, rtol=0)


@every_decoder
@given(st.integers(0, 2**32), st.floats(-50, 50))
@settings(max_examples=20)
def test_a_constant_changes_nothing(decode: Decoder, seed: int, constant: float) -> None:
    maps = torch.randn(1, 2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(decode(maps + constant), decode(maps), atol=1e-9, rtol=0)


@given(st.integers(0, 2**32), st.floats(0.1, 10))
@settings(max_examples=20)
def test_scale(seed: int, scale: float) -> None:
    """The temperature takes a scale out again; the peak of a paraboloid, and a cell's rank, do not know of it."""
    maps = torch.randn(1, 2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for decode in (decoding.argmax2d, decoding.quarter_offset2d, decoding.dark_decode2d):
        torch.testing.assert_close(decode(maps * scale), decode(maps), atol=1e-9, rtol=0)
    for soft in (decoding.soft_argmax2d, local):
        torch.testing.assert_close(soft(maps * scale, scale), soft(maps, 1.0), atol=1e-9, rtol=0)


@every_decoder
def test_compiles_into_one_graph(decode: Decoder) -> None:
    torch._dynamo.reset()
    maps = torch.randn(2, 3, 12, 9, requires_grad=True)
    compiled = torch.compile(decode, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(maps), decode(maps))
    if decode(maps).requires_grad:
        (expected,) = torch.autograd.grad(decode(maps).sum(), maps)
        torch.testing.assert_close(torch.autograd.grad(compiled(maps).sum(), maps)[0], expected)


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11),
    reason="torch.export of 2.6 fixes the batch; 2.11 does not",
)
@every_decoder
def test_exports_with_any_batch(decode: Decoder) -> None:
    class Decode(torch.nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return decode(maps)

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Decode(), (torch.randn(2, 3, 12, 9),), dynamic_shapes=({0: batch},))
    maps = torch.randn(5, 3, 12, 9)
    torch.testing.assert_close(program.module()(maps), decode(maps))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: decoding.soft_argmax2d(z, 0.0), "number > 0"),
        (lambda z: decoding.spatial_softmax2d(z, math.nan), "number > 0"),
        (lambda z: decoding.soft_argmax2d(z, torch.ones(2)), "0-d"),
        (lambda z: decoding.local_soft_argmax2d(z, -1), "radius >= 0"),
        (lambda z: decoding.dark_decode2d(z, -1.0), "blur >= 0"),
        (lambda z: decoding.expected_xy2d(z[0]), r"\(B, K, h, w\)"),
    ],
)
def test_nonsense_is_refused(call: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 1, 3, 3))


@every_decoder
def test_traced_and_transformed(decode: Decoder) -> None:
    """Another input than the one that was traced; a batch of batches."""
    first, other = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    expected = decode(other)
    torch.testing.assert_close(torch.jit.trace(decode, first)(other), expected)
    torch.testing.assert_close(make_fx(lambda maps: decode(maps))(first)(other), expected)
    torch.testing.assert_close(torch.func.vmap(decode)(other[:, None]).squeeze(1), expected)
