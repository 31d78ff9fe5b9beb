"""Gradients of a recurrent layer over time: from how far back it can learn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kpnet.plot.figure import Figure


def input_gradients(layer: nn.RNNBase, steps: int = 50, draws: int = 1, seed: int = 0) -> Tensor:
    """Compute the gradient of a recurrent layer's last output with respect to the input at each time step.

    Args:
        layer: An `nn.RNN`, `nn.GRU` or `nn.LSTM`.
        steps: Length T of the random input sequences.
        draws: Number of sequences to average over.
        seed: Seed of the sequences.

    Returns:
        |d sum(h_T) / d x_t| for each t, (T,) on the CPU: the norm over the inputs, averaged over the sequences.
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
    """Draw `input_gradients` of several layers over the time step, on a logarithmic axis.

    It is the plot of the I2DL course (solution to exercise 3). A plain RNN learns little from inputs many steps back,
    as its gradient shrinks with each step; an LSTM keeps more of it, the more its forget gate is open (Hochreiter and
    Schmidhuber 1997, Long short-term memory).

    Args:
        layers: Layers by the name that the legend shows.
        steps: Length of the random input sequences.
        draws: Number of sequences to average over.
        seed: Seed of the sequences, the same for all layers.

    Returns:
        A line for each layer.

    Example:
        ```python
        kpnet.plot.draw_gradients({"RNN": nn.RNN(8, 32), "LSTM": nn.LSTM(8, 32)})
        ```
    """
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
