"""A gateway: the REST API of streams that run in the workers of a RunPod endpoint."""
