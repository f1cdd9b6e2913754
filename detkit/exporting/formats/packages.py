"""Packages of the extras `onnx` and `openvino`, which are imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any

EXTRA_OF = {"onnx": "onnx", "onnxscript": "onnx", "onnxruntime": "onnx", "openvino": "openvino"}


def needed(*packages: str) -> Any:
    """Import packages: one module, or a list of several.

    Raises:
        ValueError: one is not installed; the message says which extra of detkit has it.
    """
    modules = []
    for package in packages:
        try:
            modules.append(importlib.import_module(package))
        except ImportError as error:
            hint = f'pip install "detkit[{EXTRA_OF[package]}]"'
            raise ValueError(f"{package} is missing ({error}): {hint}") from error
    return modules[0] if len(modules) == 1 else modules
