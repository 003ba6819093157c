"""A bundle as a service: the Open Inference Protocol over gRPC, and what an operator needs."""
