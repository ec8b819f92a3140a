"""How the C library hands out memory, set so that a forward pass on a CPU does not wait for it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache

# glibc's malloc.h: parameters of mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
#: As much freed memory as this stays with the process at the end of its heap, in bytes; in between, all of it.
_KEPT = 1 << 30
_GROWS_BY = 1 << 26


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep what one forward pass frees for the next; whether it does.

    By default it maps every large tensor anew, and the kernel clears each of its pages on first touch: half of the time
    of a pass where page faults are dear, as on virtual machines (docs/log.md). Where the user has set glibc's own
    ``MALLOC_`` variables or tunables, these stay; with another C library nothing is done. What is kept has no bound
    until ``give_back_memory``.
    """
    if not _is_glibc() or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _KEPT), mallopt(_TOP_PAD, _GROWS_BY)])


def give_back_memory() -> None:
    """Give the system what was freed and kept, wherever it lies: after a computation, not between two passes of one."""
    if keep_freed_memory.cache_info().currsize and keep_freed_memory():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    """Whether this process runs on glibc; without a look at the interpreter's file where there is none to be read."""
    try:
        return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    except OSError:
        return False
