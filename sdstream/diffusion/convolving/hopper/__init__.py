"""Convolutions by Hopper's own instructions, in CUDA C++ that is compiled at run time."""
