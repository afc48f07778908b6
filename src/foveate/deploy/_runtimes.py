"""The runtimes that models are timed in, by name; importing this imports none of them."""

from __future__ import annotations

RUNTIMES = {
    "torch": "",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "executorch": "executorch",
    "litert": "litert",
}
"""Names of runtimes, and the format that each runs; PyTorch runs the model as it is."""
