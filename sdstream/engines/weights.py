"""The digest of a network's weights: of what they are, not of where or in which order they are kept."""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

THREADS = 4
"""Hashing leaves Python's lock alone, so tensors are hashed side by side."""


def digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of `tensors`, in the order of their names.

    Tensors may be on any device; those of a GPU are brought to the host one after another.
    """
    names = sorted(tensors)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="digest") as pool:
        digests = pool.map(digest_of_tensor, (tensors[name] for name in names))
        return combined(zip(names, digests, strict=True))


def digest_of_weights(module: nn.Module) -> str:
    """The digest of all that a module's answers depend on besides its structure."""
    return digest_of_tensors(module.state_dict())


def digest_of_tensor(tensor: torch.Tensor) -> str:
    """SHA-256 over the type, the shape and the bytes of one tensor, however it lies in memory."""
    plain = tensor.detach().cpu().contiguous()
    content = hashlib.sha256(f"{str(plain.dtype).removeprefix('torch.')}{list(plain.shape)}".encode())
    if plain.numel():
        raw: Any = plain.reshape(-1).view(torch.uint8).numpy()
        content.update(raw.data)
    return content.hexdigest()


def combined(digests: Iterable[tuple[str, str]]) -> str:
    """One digest for named ones, whatever their order."""
    content = hashlib.sha256()
    for name, digest in sorted(digests):
        content.update(f"{len(name)}:{name}={digest};".encode())
    return content.hexdigest()


__all__ = ["combined", "digest_of_tensor", "digest_of_tensors", "digest_of_weights"]
