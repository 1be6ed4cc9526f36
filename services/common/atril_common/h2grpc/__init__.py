"""gRPC on the event loop: a small HTTP/2 server and client, and the RPCs on top of them."""
