"""What a forward pass frees is used again by the next."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from curation.allocator import keep_freed_memory

kept = keep_freed_memory()
def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(50_000_000, dtype=np.uint8)
before = faults()
for _ in range(4):
    np.ones(50_000_000, dtype=np.uint8)
print(kept, faults() - before)
"""


def _asked(**more: str) -> tuple[bool, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment | more, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other settings")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    pages = 4 * 50_000_000 // os.sysconf("SC_PAGE_SIZE")
    kept, faults = _asked()
    assert kept
    assert faults < pages / 100
    left, faults = _asked(MALLOC_ARENA_MAX="8")
    assert not left, "what the user has set stays"
    assert faults > pages / 100
