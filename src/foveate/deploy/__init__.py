"""Models for other runtimes: written, run there against the model, and measured there.

:func:`foveate.export` is the call; :mod:`~foveate.deploy.verify` holds its file to the model, and
each format has a file: ONNX, OpenVINO, ExecuTorch, LiteRT and Core ML.
"""
