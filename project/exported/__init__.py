"""Exported classifiers: what a file says of itself, and running it; ONNX needs no torch."""
