"""Plot how far back a plain RNN and an LSTM can learn from, into docs/images/recurrent_gradients.png.

    python benchmarks/accuracy/recurrent_gradients.py [--out docs/images/recurrent_gradients.png]

The layers have 32 units, as PyTorch initialises them, and run over 50 steps; the curves are means over 64 random
sequences. In the LSTM with an open forget gate, that gate's bias is 2 (the sum of PyTorch's two), so that the cell
keeps its content for long.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from kpnet.plot import draw_gradients, save_figure

STEPS, INPUTS, UNITS = 50, 8, 32
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "recurrent_gradients.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIGURE, help="where the figure is written")
    given = parser.parse_args()
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
    save_figure(draw_gradients(layers, STEPS, draws=64), given.out)


if __name__ == "__main__":
    main()
