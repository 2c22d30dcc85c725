"""Export of models for the runner without torch, as folders of OpenVINO or ONNX graphs and arrays."""
