"""How far back a recurrent layer can learn from: the slides' plot."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kpnet.plot.figure import Figure


def input_gradients(layer: nn.RNNBase, steps: int = 50, draws: int = 1, seed: int = 0) -> Tensor:
    """|d sum(h_T) / d x_t| of a recurrent layer (`nn.RNN`, `nn.GRU`, `nn.LSTM`) at each time step t, (T,).

    The norm over the inputs, and the mean over `draws` random sequences.
    """
    generator = torch.Generator().manual_seed(seed)
    parameter = next(layer.parameters())
    x = torch.randn(draws, steps, layer.input_size, generator=generator, dtype=parameter.dtype).to(parameter.device)
    x = (x if layer.batch_first else x.transpose(0, 1)).requires_grad_()
    hidden = layer(x)[0]
    last = hidden[:, -1] if layer.batch_first else hidden[-1]
    (gradient,) = torch.autograd.grad(last.sum(), x)
    norms = gradient.norm(dim=-1)
    return norms.mean(0 if layer.batch_first else 1).detach().cpu()


def draw_gradients(layers: Mapping[str, nn.RNNBase], steps: int = 50, draws: int = 1, seed: int = 0) -> Figure:
    """`input_gradients` of several layers by name, logarithmic, over the time step of the input (I2DL, solution to
    exercise 3): a plain RNN learns little from what is many steps back, as its gradient shrinks with each step; an LSTM
    keeps more, and the more the wider its forget gate is open."""
    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for name, layer in layers.items():
        axes.semilogy(
            range(1, steps + 1), input_gradients(layer, steps, draws, seed).numpy(), label=name, linewidth=1.6
        )
    axes.set(xlabel="time step t", ylabel="|d h_T / d x_t|", title=f"gradient of the output after {steps} steps")
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend(frameon=False, fontsize=9)
    return figure
