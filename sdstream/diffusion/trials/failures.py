"""What a kernel, or a way of torch's, raises where it cannot do what it is asked for on a card."""

# Triton is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

import subprocess

_of_triton: tuple[type[Exception], ...] = ()
try:
    from triton.errors import TritonError
except ImportError:
    pass
else:
    _of_triton = (TritonError,)

FAILURES: tuple[type[Exception], ...] = (RuntimeError, OSError, ValueError, subprocess.SubprocessError, *_of_triton)
"""It does not know the shape or the card, or there is no C compiler, which Triton needs. A lost or full device raises
kinds of `RuntimeError`, too (`torch.AcceleratorError`, `torch.OutOfMemoryError`): whoever minds tells them apart."""

__all__ = ["FAILURES"]
