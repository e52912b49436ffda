"""Keep freed memory in the process: large activations are then not faulted in page by page in every step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from its heap and never to give the heap's end back while the process lives.

    By default each block above 32 MB is mapped when it is asked for and unmapped when it is freed, and the system
    fills every page of it with zeros anew. A layer's output at 224x224 is larger than that, so a training step on a
    CPU spends much of its time there. Results do not change; the process keeps its peak of memory until it ends.

    Returns:
        Whether it was done: False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))
    except (OSError, AttributeError):  # musl and others
        return False
