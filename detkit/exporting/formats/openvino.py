"""OpenVINO files, an .xml with its .bin: made from the ONNX model, run by OpenVINO."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkit.exporting.description import KEY, Description
from detkit.exporting.formats.packages import needed


def write(proto: Any, path: Path, description: Description) -> list[Path]:
    """Convert an ONNX model and write it with its description; weights stay float32."""
    openvino = needed("openvino")
    model = openvino.Core().read_model(proto.SerializeToString())
    model.set_rt_info(description.to_metadata()[KEY], [KEY])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


class Session:
    """A model that OpenVINO runs in float32, on as many threads as PyTorch.

    (By itself OpenVINO computes in bfloat16 on processors that can.)

    Raises:
        ValueError: the file or its .bin is missing or damaged, it is not of detkit, or ONEDNN_MAX_CPU_ISA is set.
    """

    def __init__(self, path: Path):
        openvino = needed("openvino")
        if not path.with_suffix(".bin").is_file():
            raise ValueError(f"{path}: its weights, {path.with_suffix('.bin')}, are missing")
        if os.environ.get("ONEDNN_MAX_CPU_ISA"):  # the process would end with a segmentation fault
            raise ValueError(f"{path}: OpenVINO does not bear ONEDNN_MAX_CPU_ISA in the environment: unset it")
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        try:
            model = openvino.Core().read_model(str(path))
            metadata = {KEY: model.get_rt_info([KEY]).astype(str)} if model.has_rt_info([KEY]) else {}
            self.description = Description.of_metadata(metadata, path)
            self.request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["damaged"])[-1]
            raise ValueError(f"{path}: OpenVINO cannot run it: {reason}") from error
        self.inputs = [value.get_any_name() for value in model.inputs]
        self.outputs = [value.get_any_name() for value in model.outputs]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in their order, for inputs in theirs."""
        found = self.request.infer(dict(zip(self.inputs, arrays, strict=True)))
        return [np.array(found[i]) for i in range(len(self.outputs))]
