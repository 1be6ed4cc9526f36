"""The Open Inference Protocol over HTTP and gRPC, written once against the port."""
