"""Write a trained model as a file that runs elsewhere: ONNX, a `torch.export` archive, or a web page."""

from kpnet.export.html import to_html
from kpnet.export.onnx import to_onnx
from kpnet.export.parity import ParityError
from kpnet.export.program import to_torch

__all__ = ["ParityError", "to_html", "to_onnx", "to_torch"]
