"""Where heavy work is computed: in this process, or on the workers of a Ray cluster. One door to Ray.

Embedding, scoring and the training of folds hand their work here as a function, one thing that all tasks share, and the
tasks. Results come back in the order of the tasks and are recorded by this process alone, so that the caches, the
ledger and what a stopped run goes on from are the same for either engine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from curation.errors import ConfigError, CurationError, EngineError
from curation.records import Progress

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")
#: What is computed for a task. It is called with what all tasks share, the task, and where to tell progress, which is
#: ``None`` on another machine. It must stand at the top of a module that workers have installed.
Work = Callable[[Shared, Task, Progress | None], Result]

#: How often a task is begun anew after its worker or its machine died.
RETRIES = 3
#: Tasks that wait or run at a time, for each processor of the cluster; more would only fill its memory.
_AHEAD = 2
#: Seconds to wait for a cluster to answer.
_PATIENCE = 10


class Engine(Protocol):
    """Computes tasks."""

    def map(
        self, work: Work[Shared, Task, Result], shared: Shared, tasks: Iterable[Task], progress: Progress | None = None
    ) -> Iterator[Result]:
        """The result of each task, in their order; tasks are asked for as they can be computed.

        What ``work`` raises comes through. Raises EngineError where the workers are lost.
        """
        ...


class LocalEngine:
    """Computes in this process, one task after the other."""

    def map(
        self, work: Work[Shared, Task, Result], shared: Shared, tasks: Iterable[Task], progress: Progress | None = None
    ) -> Iterator[Result]:
        """As ``Engine.map``; ``work`` tells its own progress."""
        for task in tasks:
            yield work(shared, task, progress)


@dataclass
class RayEngine:
    """Computes on a Ray cluster: ``auto`` for the one that runs on this machine, ``HOST:PORT``, or ``ray://...``.

    Each task takes one processor (with ``gpu``, one GPU too). A task whose worker or machine dies is begun anew
    elsewhere, up to three times. The package has to be installed on the workers, in the same version.
    """

    address: str = "auto"
    gpu: bool = False

    def map(
        self, work: Work[Shared, Task, Result], shared: Shared, tasks: Iterable[Task], progress: Progress | None = None
    ) -> Iterator[Result]:
        """As ``Engine.map``; progress is told by whoever takes the results."""
        ray = _connected(self.address)
        remote = ray.remote(num_cpus=1, num_gpus=int(self.gpu), max_retries=RETRIES)(work)
        held = ray.put(shared)
        ahead = max(2, int(_AHEAD * ray.cluster_resources().get("CPU", 1)))
        waiting: deque[Any] = deque()
        try:
            for task in tasks:
                waiting.append(remote.remote(held, task, None))
                if len(waiting) >= ahead:
                    yield self._result(ray, waiting.popleft())
            while waiting:
                yield self._result(ray, waiting.popleft())
        finally:
            for task_left in waiting:
                ray.cancel(task_left, force=True)

    def _result(self, ray: Any, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, CurationError):
                raise cause from None
            raise EngineError(
                f"a task on the Ray cluster at '{self.address}' failed with {type(cause).__name__}: {cause}; "
                "check that its workers have the same version of this package, or set engine = 'local'"
            ) from cause
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"the Ray cluster at '{self.address}' lost a task {RETRIES + 1} times ({type(error).__name__}); look "
                "at its machines with `ray status` and run again: what is finished is kept"
            ) from error


def make_engine(name: str, address: str = "auto", *, gpu: bool = False) -> Engine:
    """The engine that the settings ``engine`` and ``engine_address`` name."""
    return RayEngine(address, gpu) if name == "ray" else LocalEngine()


def _connected(address: str) -> Any:
    """Ray, connected to the cluster there; raises ConfigError where it is not installed or nothing answers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # tasks without a GPU leave CUDA's settings alone
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "engine = 'ray' needs Ray: pip install 'curation-toolkit[ray]', or set engine = 'local'"
        ) from None
    if not ray.is_initialized():
        _check_listens(address)
        with _signals_kept():
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
            except Exception as error:  # whatever Ray, gRPC or the network raise
                raise _silent_cluster(address, error) from error
    return ray


def _check_listens(address: str) -> None:
    """Raise ConfigError where nothing listens at ``HOST:PORT``: Ray itself asks for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise _silent_cluster(address, error) from None


def _silent_cluster(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"no Ray cluster answers at engine_address = '{address}' ({type(error).__name__}); start one with "
        "`ray start --head`, export RAY_AUTH_MODE=token where it wants a token, or set engine = 'local'"
    )


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep what SIGTERM does: Ray takes it over when it connects."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
