"""The engine (repository, ONNX Runtime sessions, batching) and the service that exposes it."""
