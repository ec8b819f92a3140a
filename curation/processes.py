"""Other processes: whether one is still the one that it was, how it was called, and waiting for its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def birth(pid: int) -> float | None:
    """When the process was born, ``None`` where it is gone (or dead and not yet collected)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def command_of(pid: int) -> tuple[str, ...]:
    """The process's command line; empty where it is gone, or not for us to see."""
    import psutil

    try:
        return tuple(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ()


def wait_until_gone(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait at most so long for these processes to end; those that are left.

    One that another living process started, and has not collected yet, has ended.
    """
    import psutil

    left, give_up = list(processes), time.monotonic() + seconds
    while left and time.monotonic() < give_up:
        left = psutil.wait_procs(left, timeout=0.1)[1]
        left = [one for one in left if one.is_running() and birth(one.pid) is not None]
    return left
