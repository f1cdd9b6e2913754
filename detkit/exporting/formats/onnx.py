"""ONNX files: writing them with the exporter of PyTorch, running them with onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkit.console import without_warnings
from detkit.exporting.description import Description
from detkit.exporting.formats.packages import needed

OPSET = 20  # the first with Gelu as an operator
LARGEST = 2**31  # bytes of a protobuf message


def to_proto(program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """The ONNX model of an exported program."""
    needed("onnx", "onnxscript")
    for name in ("onnx_ir", "onnxscript"):  # they tell each constant that they fold
        logging.getLogger(name).setLevel(logging.ERROR)
    names: Any = dict(input_names=list(inputs), output_names=list(outputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **names)
    assert found is not None
    return found.model_proto


def quantized(proto: Any, path: Path) -> Any:
    """The model with the weights of its linear layers, and what they are multiplied by, as 8-bit integers.

    Convolutions and the products of attention stay as they are. Each output channel has a scale of its own; the scale
    of the other factor is found anew for each image.
    """
    onnx, _ = needed("onnx", "onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    temporary = path.with_suffix(".int8")
    options: Any = dict(op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8)
    with without_warnings():  # it advises to prepare the model, which the exporter has done
        quantize_dynamic(proto, temporary, **options)
    return onnx.load(temporary)


def write(proto: Any, path: Path, description: Description) -> list[Path]:
    """Write a model with its description into one file.

    Raises:
        ValueError: it is larger than an ONNX file without external data can be.
    """
    onnx = needed("onnx")
    onnx.helper.set_model_props(proto, description.to_metadata())
    if proto.ByteSize() >= LARGEST:
        raise ValueError(f"{path}: the model has more than 2 GB, which no single ONNX file can hold")
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())
    return [path]


class Session:
    """A model that onnxruntime runs, on as many threads as PyTorch.

    Raises:
        ValueError: no ONNX file of detkit, or one whose tensors are in other files, which are never read.
    """

    def __init__(self, path: Path):
        runtime, onnx = needed("onnxruntime", "onnx")
        content = path.read_bytes()
        try:
            proto = onnx.load_model_from_string(content)
        except Exception as error:  # whatever protobuf raises for bytes that are no message
            raise ValueError(f"{path}: is damaged or no ONNX file") from error
        if outside := next(external_tensors(proto), None):
            raise ValueError(
                f"{path}: its tensor {outside[:100]!r} lies in another file; files that you did not name are not read"
            )
        self.description = Description.of_metadata({p.key: p.value for p in proto.metadata_props}, path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        try:
            self.session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has one kind of error for each status code
            raise ValueError(f"{path}: onnxruntime cannot run it: {str(error).splitlines()[0]}") from error
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in their order, for inputs in theirs."""
        return self.session.run(None, dict(zip(self.inputs, arrays, strict=True)))


def external_tensors(message: Any) -> Iterator[str]:
    """Names of the tensors anywhere in a protobuf message of ONNX whose values lie in another file."""
    if message.DESCRIPTOR.name == "TensorProto":
        if message.data_location or len(message.external_data):
            yield message.name
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from external_tensors(part)
