"""What the slides teach of convolutional networks, against numpy written from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kpnet.backbones import build_backbone
from kpnet.plot import draw_gradients, input_gradients


def batch_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Plain batch normalisation of x (N, D), each feature over the N, and what its backward pass needs."""
    centred = x - x.mean(0)
    variance = (centred**2).mean(0)
    scale = 1 / np.sqrt(variance + eps)
    normal = centred * scale
    return gamma * normal + beta, {"centred": centred, "scale": scale, "normal": normal, "gamma": gamma}


def batch_norm_backward(dy: np.ndarray, kept: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx (N, D), dgamma (D,), dbeta (D,), one step of the graph after the other."""
    centred, scale, count = kept["centred"], kept["scale"], len(dy)
    dnormal = dy * kept["gamma"]
    dvariance = (dnormal * centred).sum(0) * -0.5 * scale**3
    dcentred = dnormal * scale + dvariance * 2 * centred / count
    dx = dcentred - dcentred.sum(0) / count  # through the mean
    return dx, (dy * kept["normal"]).sum(0), dy.sum(0)


def rows(maps: np.ndarray) -> np.ndarray:
    """(N, C, H, W) as (N·H·W, C): every place of every image is a sample of its channel."""
    return maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1])


def norm_of_a_sandwich() -> nn.BatchNorm2d:
    net = build_backbone({"name": "conv_sandwich", "channels": [5], "norm": "batch"}, 1)
    (norm,) = (m for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    return norm.double()


def test_spatial_batch_norm_is_plain_batch_norm_over_images_and_places() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4, 5, 6, 7)) * rng.uniform(0.1, 5, (1, 5, 1, 1))  # each channel has a scale of its own
    dy, gamma, beta = rng.normal(size=x.shape), rng.normal(size=5), rng.normal(size=5)
    norm = norm_of_a_sandwich()
    norm.weight.data, norm.bias.data = torch.from_numpy(gamma.copy()), torch.from_numpy(beta.copy())
    maps = torch.from_numpy(x).requires_grad_()
    out = norm(maps)
    out.backward(torch.from_numpy(dy))

    expected, kept = batch_norm(rows(x), gamma, beta, norm.eps)
    dx, dgamma, dbeta = batch_norm_backward(rows(dy), kept)
    assert maps.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    for ours, theirs in (
        (rows(out.detach().numpy()), expected),
        (rows(maps.grad.numpy()), dx),
        (norm.weight.grad.numpy(), dgamma),
        (norm.bias.grad.numpy(), dbeta),
        (norm.running_mean.numpy(), 0.1 * rows(x).mean(0)),  # type: ignore[union-attr]
        (norm.running_var.numpy(), 0.9 + 0.1 * rows(x).var(0, ddof=1)),  # type: ignore[union-attr]
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_at_test_time_the_running_statistics_normalise() -> None:
    norm, x = norm_of_a_sandwich(), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    norm.running_mean, norm.running_var = torch.rand(5).double(), torch.rand(5).double() + 0.5
    mean, variance = norm.running_mean.numpy(), norm.running_var.numpy()
    expected = (rows(x.numpy()) - mean) / np.sqrt(variance + norm.eps)
    np.testing.assert_allclose(rows(norm.eval()(x).detach().numpy()), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_spatial_dropout_drops_whole_maps_and_scales_the_others(p: float) -> None:
    torch.manual_seed(0)
    net = build_backbone({"name": "conv_sandwich", "channels": [512], "dropout": p}, 1)
    nn.init.constant_(net.get_parameter("blocks.0.0.bias"), 10.0)  # no value is 0 before it
    images = torch.rand(4, 1, 16, 16)
    whole = net.eval()(images)[0]
    assert whole.ne(0).all()
    torch.testing.assert_close(net.eval()(images)[0], whole)  # nothing is dropped at test time
    dropped = net.train()(images)[0]
    share = (dropped / whole).flatten(2)  # (4, 512, places): 0 for a dropped map, 1 / (1 - p) for another
    assert torch.equal(share.amin(2) > 0.5, share.amax(2) > 0.5)
    gone = share.amax(2) == 0
    torch.testing.assert_close(share[~gone], torch.full_like(share[~gone], 1 / (1 - p)))
    assert gone.float().mean().item() == pytest.approx(p, abs=0.05)  # 2048 draws: four standard deviations or more
    assert not torch.equal(gone[0], gone[1])  # each image draws its own


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_gradient_of_a_plain_rnn_over_time(batch_first: bool) -> None:
    """The slides' recursion by hand: d h_T / d x_t = v (1 - h_t^2) times w (1 - h_s^2) for every step s after it."""
    torch.manual_seed(0)
    rnn = nn.RNN(1, 1, batch_first=batch_first).double()
    found = input_gradients(rnn, steps=12, seed=3)
    x = torch.randn(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64).tolist()
    v, w = (rnn.get_parameter(f"weight_{name}_l0").item() for name in ("ih", "hh"))
    bias = sum(rnn.get_parameter(f"bias_{name}_l0").item() for name in ("ih", "hh"))
    states = [0.0]
    for value in x:
        states.append(np.tanh(w * states[-1] + v * value + bias))
    slopes = [1 - h**2 for h in states[1:]]
    expected = [abs(v * slopes[t] * np.prod([w * slope for slope in slopes[t + 1 :]])) for t in range(12)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_an_lstm_keeps_what_a_plain_rnn_loses() -> None:
    torch.manual_seed(0)
    layers = {"RNN": nn.RNN(4, 16), "LSTM": nn.LSTM(4, 16)}
    with torch.no_grad():
        for name in ("bias_ih_l0", "bias_hh_l0"):
            layers["LSTM"].get_parameter(name)[16:32] = 2.0  # the forget gate's
    figure = draw_gradients(layers, steps=40, draws=3)
    rnn, lstm = (np.asarray(line.get_ydata()) for line in figure.axes[0].get_lines())
    np.testing.assert_allclose(rnn, input_gradients(layers["RNN"], 40, 3).numpy())
    assert len(rnn) == 40
    assert figure.axes[0].get_yscale() == "log"
    assert rnn[0] < 1e-4 * rnn[-1]
    assert lstm[0] > 0.01 * lstm[-1]
