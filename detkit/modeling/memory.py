"""Free memory that goes back to the system."""

from __future__ import annotations

import ctypes
import os

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None


def return_free_memory() -> None:
    """Give free memory back to the system, where the C library is glibc; elsewhere do nothing.

    Tensors of sizes that vary leave gaps between what stays, and glibc keeps those.
    """
    if _trim is not None:
        _trim(0)
