"""Work on a Ray cluster of several processes, of which some are killed: the same results as in this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_cluster import ROOT, Centroids, cluster_of_two, dies, dies_once, divides, refuses, where
from tests_faults import lay_out
from tests_pictures import samples_in

from curation.backbone import load_backbone
from curation.config import BackboneSettings, ReportSettings, Settings
from curation.crossval import cross_validate
from curation.engine import LocalEngine, RayEngine
from curation.errors import DataError, EngineError
from curation.features import FeatureStore, ViewFeatures
from curation.images import PixelCache
from curation.project import Project
from curation.records import Sample
from curation.streaming import score_streaming

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with cluster_of_two() as started:
        yield started


def in_another_process(code: str) -> subprocess.CompletedProcess[str]:
    """Run code that connects to a cluster by itself."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture(scope="module")
def engine(cluster: Any) -> RayEngine:
    return RayEngine(cluster.address)


def test_results_come_in_order_from_other_processes(engine: RayEngine) -> None:
    found = list(engine.map(where, 0.0, range(8)))
    assert [task for task, _, _ in found] == list(range(8))
    assert os.getpid() not in {process for _, process, _ in found}


def test_connecting_leaves_the_signals_as_they_were(engine: RayEngine) -> None:
    """In a process of its own: the cluster of this test was started here."""
    code = (
        "import signal\nfrom curation.engine import RayEngine\n"
        f"from tests_cluster import refuses\nassert list(RayEngine({engine.address!r}).map(refuses, '', [0])) == [0]\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
    )
    done = in_another_process(code)
    assert done.returncode == 0, done.stderr


def test_a_task_whose_process_is_killed_is_computed_anew(engine: RayEngine, tmp_path: Path) -> None:
    assert list(engine.map(dies_once, tmp_path, range(6))) == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "died").exists()


def test_a_task_that_always_kills_its_process_is_told_in_a_sentence(engine: RayEngine) -> None:
    with pytest.raises(EngineError, match=r"lost a task 4 times \(WorkerCrashedError\).*what is finished is kept"):
        list(engine.map(dies, None, range(2)))


def test_errors_of_ours_come_through_and_others_are_told(engine: RayEngine) -> None:
    with pytest.raises(DataError, match=r"^no such image$"):
        list(engine.map(refuses, "no such image", range(3)))
    with pytest.raises(EngineError, match="failed with ZeroDivisionError: division by zero; check that"):
        list(engine.map(divides, None, [0]))


def test_a_machine_that_dies_in_the_middle_costs_no_result(engine: RayEngine, cluster: Any) -> None:
    other = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    results = engine.map(where, 0.2, range(400))
    found = [next(results)]
    while found[-1][2] != other.node_id:  # until the new machine computes
        found.append(next(results))
    cluster.remove_node(other, allow_graceful=False)
    found += [next(results) for _ in range(20)]
    results.close()
    assert [task for task, _, _ in found] == list(range(len(found)))
    assert found[-1][2] != other.node_id


def test_features_are_those_of_one_process_when_a_machine_dies_on_the_way(
    engine: RayEngine, cluster: Any, tmp_path: Path
) -> None:
    samples = samples_in(tmp_path, 400)
    backbone = load_backbone(size=64)

    def store(name: str, **how: Any) -> FeatureStore:
        return FeatureStore(backbone, PixelCache(tmp_path / "p", 64), tmp_path / name, **how)

    expected = store("local").features(samples), store("local").activations(samples)
    other = cluster.add_node(num_cpus=2, object_store_memory=100_000_000)
    told: list[int] = []

    def progress(_doing: str, done: int, total: int) -> None:
        if not told:
            cluster.remove_node(other, allow_graceful=False)
        told.append(done)

    found = store("ray", engine=engine).features(samples, progress), store("ray").activations(samples)
    assert np.allclose(found[0], expected[0], atol=1e-3)
    assert np.allclose(found[1].astype(np.float32), expected[1].astype(np.float32), atol=2e-2)
    assert told[-1] == 400


def test_views_are_those_of_one_process(engine: RayEngine, tmp_path: Path) -> None:
    samples, backbone = samples_in(tmp_path, 20), load_backbone(size=64)
    expected = ViewFeatures(backbone, tmp_path / "local").features(samples)
    found = ViewFeatures(backbone, tmp_path / "ray", engine=engine).features(samples)
    assert np.allclose(found, expected, rtol=2e-3, atol=2e-3), "kept in half precision"


def test_folds_are_those_of_one_process_though_one_is_killed(engine: RayEngine, tmp_path: Path) -> None:
    truth = np.arange(60) % 3
    features = np.random.default_rng(0).normal(size=(60, 4)) + 6 * np.eye(3, 4)[truth]
    samples = [Sample(f"s{n:03d}", f"{n}.jpg", Path(f"{n}.jpg"), "train") for n in range(60)]
    given = {"groups": np.arange(60), "folds": 4, "seed": 0}
    (tmp_path / "calm").mkdir()
    (tmp_path / "calm" / "died").touch()
    calm = cross_validate(
        Centroids(features, tmp_path / "calm"), samples, truth, ("a", "b", "c"), folder=tmp_path / "f", **given
    )
    found = cross_validate(
        Centroids(features, tmp_path), samples, truth, ("a", "b", "c"), folder=tmp_path / "g", engine=engine, **given
    )
    assert (tmp_path / "died").exists()
    assert np.array_equal(found.probabilities, calm.probabilities)


def test_large_sets_are_scored_as_in_one_process(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.streaming.BLOCK", 128)
    truth = np.arange(600) % 3
    features = (np.random.default_rng(0).normal(size=(600, 8)) + 3 * np.eye(3, 8)[truth]).astype(np.float32)
    labels = np.where(np.arange(600) % 10 == 0, (truth + 1) % 3, truth)
    expected = score_streaming(features, labels, 3, seed=0)
    found = score_streaming(features, labels, 3, seed=0, engine=engine)
    assert np.allclose(found.probabilities, expected.probabilities, atol=1e-4)


def test_a_project_flags_the_same_labels(engine: RayEngine, tmp_path: Path) -> None:
    lay_out(tmp_path)
    tables = []
    for name, how in (("local", {}), ("ray", {"engine": "ray", "engine_address": engine.address})):
        settings = Settings(backbone=BackboneSettings(size=32), report=ReportSettings(fiftyone=False))
        project, _ = Project.create(
            tmp_path / name, tmp_path / "images", tmp_path / "labels.csv", settings=replace(settings, **how)
        )
        tables.append(project.flag().set_index("path").sort_index())
    assert np.allclose(tables[0]["label_quality"], tables[1]["label_quality"], atol=1e-3)
    assert tables[0]["suggested_label"].equals(tables[1]["suggested_label"])


def test_local_work_tells_its_own_progress() -> None:
    told: list[tuple[str, int, int]] = []

    def work(shared: int, task: int, progress: Any) -> int:
        progress("adding", task, 3)
        return shared + task

    assert list(LocalEngine().map(work, 10, [1, 2], lambda *given: told.append(given))) == [11, 12]
    assert told == [("adding", 1, 3), ("adding", 2, 3)]


def test_where_no_cluster_answers_one_sentence_says_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = in_another_process(
        f"from curation.engine import RayEngine\nlist(RayEngine({address!r}).map(print, None, [1]))"
    )
    assert done.returncode == 1
    assert f"ConfigError: no Ray cluster answers at engine_address = '{address}' (Connection" in done.stderr
