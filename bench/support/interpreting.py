"""Triton's interpreter with the numpy of today."""

# Triton is installed only where torch is for CUDA.
# pyright: reportMissingModuleSource=false

from typing import Any


def mend_interpreter() -> None:
    """Have loops over numbers that a kernel is given: numpy 2.5 makes no number of an array of one value any more, and
    Triton 3.6 and 3.7 ask it to. For a process that interprets (TRITON_INTERPRET=1)."""
    from triton.runtime import interpreter

    library: Any = interpreter
    before = library._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        before(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    library._patch_lang_tensor = patch


__all__ = ["mend_interpreter"]
