"""Networks as ONNX and torch.export programs, checked against the original."""
