"""The port over inference replicas: `InferenceCore` by the Open Inference Protocol's gRPC."""

from atril_gateway.remote.core import RemoteCore

__all__ = ["RemoteCore"]
