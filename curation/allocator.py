"""How the C library hands out memory, set so that a forward pass on a CPU does not wait for it."""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

# glibc's malloc.h: parameters of mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
#: As much freed memory as this stays with the process, in bytes.
_KEPT = 1 << 30
_GROWS_BY = 1 << 26


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep what one forward pass frees for the next; whether it does.

    By default it maps every large tensor anew, and the kernel clears each of its pages on first touch: half of the time
    of a pass where page faults are dear, as on virtual machines (docs/log.md). Where the user has set glibc's own
    ``MALLOC_`` variables or tunables, these stay; with another C library nothing is done.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _KEPT), mallopt(_TOP_PAD, _GROWS_BY)])
