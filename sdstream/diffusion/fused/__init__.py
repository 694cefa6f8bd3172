"""diffusers' blocks, and a frame's own steps, with fewer and larger operations for GPUs.

Kernels in Triton, and the plain twins that they are compared with.
"""
