"""A Ray cluster of two machines on this one, and work for it that workers can import."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from curation.errors import DataError
from curation.records import Predictions, Sample

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def cluster_of_two() -> Iterator[Any]:
    """A head that computes nothing but what another machine left behind, and ``machine()`` to add that other one."""
    # Workers import this package and this module; sockets want a short path.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=paths, RAY_TMPDIR=folder, RAY_USAGE_STATS_ENABLED="0")
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 6}
    common = {"include_dashboard": False, "object_store_memory": 200_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": soon} | common)
    try:
        yield cluster
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def where(shared: float, task: int, _: Any = None) -> tuple[int, int, str]:
    """The task, the process and the machine that computed it, after ``shared`` seconds."""
    import ray

    time.sleep(shared)
    return task, os.getpid(), ray.get_runtime_context().get_node_id()


def dies_once(folder: Path, task: int, _: Any = None) -> int:
    """The task's square; the process is killed when the third one is computed for the first time."""
    if task == 2 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task * task


def dies(_shared: None, _task: int, _: Any = None) -> int:
    """Never comes back."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def refuses(words: str, task: int, _: Any = None) -> int:
    """An error of ours at the second task."""
    if task == 1:
        raise DataError(words)
    return task


def divides(_shared: None, task: int, _: Any = None) -> float:
    """An error that is not ours at the first task."""
    return 1 / task


class Centroids:
    """Predicts by the mean of each class; its process is killed once, at the first training of the second fold."""

    def __init__(self, features: np.ndarray, folder: Path) -> None:
        self.features = features
        self.folder = folder

    def train(self, samples: Sequence[Sample], labels: np.ndarray, class_ids: Sequence[str], **given: Any) -> Centroids:
        if given["checkpoint"].stem == "fold-1" and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        rows = np.array([int(s.id[1:]) for s in samples])
        self.class_ids = tuple(class_ids)
        self.means = np.stack([self.features[rows[labels == c]].mean(axis=0) for c in range(len(class_ids))])
        return self

    def predict(self, samples: Sequence[Sample], progress: Any = None) -> Predictions:
        rows = np.array([int(s.id[1:]) for s in samples])
        near = np.exp(-((self.features[rows][:, None] - self.means) ** 2).sum(axis=2))
        near = (near + 1e-9) / (near + 1e-9).sum(axis=1, keepdims=True)
        return Predictions(tuple(s.id for s in samples), self.class_ids, near, np.zeros(len(samples), dtype=np.int64))
