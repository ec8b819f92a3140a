"""What a forward pass frees is used again by the next."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from curation import allocator

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


LEFT = """
import numpy as np, psutil
from curation.allocator import give_back_memory, keep_freed_memory

def held() -> float:
    return psutil.Process().memory_info().rss / 1e6
keep_freed_memory()
large = [np.ones(100_000_000, dtype=np.uint8) for _ in range(15)]
small = np.ones(1_000_000, dtype=np.uint8)  # lies behind them, so that the heap does not end before it
del large
kept = held()
give_back_memory()
print(kept, held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other settings")
def test_memory_that_was_freed_is_given_back_after_a_computation_even_below_what_is_in_use() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", LEFT], env=environment, capture_output=True, text=True, check=True)
    kept, left = (float(words) for words in done.stdout.split())
    assert kept > 1400, "megabytes, which the next pass takes again"
    assert left < 300


def test_where_there_is_no_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*given: str) -> tuple[str, str]:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(allocator.platform, "libc_ver", unreadable)
    assert not allocator.keep_freed_memory.__wrapped__(), "an interpreter whose file cannot be read"
    monkeypatch.setattr(allocator.sys, "platform", "win32")
    assert not allocator.keep_freed_memory.__wrapped__()
