"""Models as files for other runtimes: ONNX, OpenVINO and `torch.export`, and predicting with these files."""
