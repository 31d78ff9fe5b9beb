"""Write a trained model as a file that runs elsewhere: ONNX, or a `torch.export` archive."""

from kpnet.export.onnx import to_onnx
from kpnet.export.parity import ParityError
from kpnet.export.program import to_torch

__all__ = ["ParityError", "to_onnx", "to_torch"]
