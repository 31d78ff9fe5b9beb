"""The slides' plot of what a plain RNN and an LSTM can learn from: docs/images/recurrent_gradients.png.

    python benchmarks/accuracy/recurrent_gradients.py

Fresh layers of 32 units as PyTorch initialises them, over 50 steps; the mean of 64 random sequences. In the LSTM with
an open forget gate, that gate's bias is 2 (the sum of PyTorch's two): what is in the cell stays there for long.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from kpnet.plot import draw_gradients, save_figure

STEPS, INPUTS, UNITS = 50, 8, 32


def main() -> None:
    torch.manual_seed(0)
    layers = {
        "RNN": nn.RNN(INPUTS, UNITS),
        "LSTM": nn.LSTM(INPUTS, UNITS),
        "LSTM, forget gate open": nn.LSTM(INPUTS, UNITS),
    }
    with torch.no_grad():
        for name, bias in layers["LSTM, forget gate open"].named_parameters():
            if "bias" in name:
                bias[UNITS : 2 * UNITS] = 1.0
    save_figure(
        draw_gradients(layers, STEPS, draws=64),
        Path(__file__).parents[2] / "docs" / "images" / "recurrent_gradients.png",
    )


if __name__ == "__main__":
    main()
