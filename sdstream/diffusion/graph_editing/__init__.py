"""Memset nodes of recorded CUDA graphs, and kernels in their place: a GPU waits around the former only."""
