"""The Open Inference Protocol v2 over HTTP: scores of image tensors, for clients such as Triton's and KServe's."""
