"""Several processes train to the weights that one comes to; on a CPU they talk by gloo, as they do by NCCL on GPUs."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from multiprocessing.spawn import get_preparation_data
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests_stand_ins import content_id, draw

from curation.backbone import load_backbone
from curation.config import TrainingSettings
from curation.errors import TrainingError
from curation.features import FeatureStore
from curation.fitting import Crew, _vary
from curation.images import PixelCache
from curation.parallel import ended_words, fine_tune_together, processes_for, without_script
from curation.records import Augmentation, Sample
from curation.training import fine_tune

CLASSES = ("c1", "c2")
#: What somebody writes who has not heard of ``if __name__ == "__main__"``.
SCRIPT = """
from pathlib import Path
import numpy as np
from curation.backbone import load_backbone
from curation.config import TrainingSettings
from curation.features import FeatureStore
from curation.images import PixelCache
from curation.parallel import fine_tune_together
from curation.records import Sample

print("the script", flush=True)
samples = [Sample(f.stem, f.name, f, "train") for f in sorted(Path("pictures").iterdir())]
store = FeatureStore(load_backbone(size=64), PixelCache(Path("pixels"), 64), Path("features"))
settings, labels = TrainingSettings(epochs=1), np.arange(len(samples)) % 2
fine_tune_together(store, samples, labels, ("c1", "c2"), settings=settings, seed=0, processes=2)
print("the script's end", flush=True)
"""
Pixels = npt.NDArray[np.uint8]
Pictures = tuple[list[Sample], npt.NDArray[np.int64]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder = tmp_path_factory.mktemp("pictures")
    truth = draw(folder, 50)
    samples = [Sample(content_id(folder / path), path, folder / path, "train") for path in truth]
    return samples, np.array([0 if name == "left" else 1 for name in truth.values()])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("store")
    return FeatureStore(load_backbone(size=64), PixelCache(folder / "pixels", 64), folder / "features")


@dataclass(frozen=True)
class Fatal:
    """Ends every process but the one it was made in, or raises there what ``words`` say."""

    made_in: int
    words: str = ""

    def __call__(self, image: Pixels, seed: int) -> Pixels:
        if os.getpid() != self.made_in:
            if self.words:
                raise TrainingError(self.words)
            os._exit(1)
        return image


def test_shares_make_up_the_batch_and_change_as_in_it() -> None:
    images, rows = torch.rand(5, 3, 8, 8), np.arange(5)
    shares = [Crew(rank, 2).share(rows) for rank in (0, 1)]
    assert sorted(np.concatenate(shares).tolist()) == [0, 1, 2, 3, 4]
    together = _vary(images, torch.Generator().manual_seed(3))
    for share in shares:
        apart = _vary(images[share], torch.Generator().manual_seed(3), share, 5)
        assert torch.allclose(apart, together[share], atol=1e-6)


def test_a_sample_comes_back_from_its_pickle_with_metadata_that_no_one_can_change() -> None:
    sample = Sample("a" * 64, "a.png", Path("a.png"), "train", "lot 1", {"depth": 2.5}, 30, 20)
    again = pickle.loads(pickle.dumps(sample))
    assert again == sample
    with pytest.raises(TypeError):
        again.metadata["depth"] = 1.0


def test_there_are_no_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [processes_for("cuda", 0), processes_for("cuda", 2), processes_for("cuda:1", 0)] == [4, 2, 1]
    assert [processes_for("cpu", 0), processes_for("cpu", 2)] == [1, 2]
    with pytest.raises(TrainingError, match=r"training\.processes is 5"):
        processes_for("cuda", 5)


@pytest.mark.parametrize("spec", [None, ModuleSpec("a.script", None)])
def test_what_is_started_without_the_script_is_not_told_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spec: ModuleSpec | None
) -> None:
    """Whether it was started as a file, or as a module with ``python -m``."""
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "script.py"), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec, raising=False)

    def told() -> set[str]:
        return {"init_main_from_name", "init_main_from_path"} & set(get_preparation_data("process"))

    before, main = told(), dict(vars(sys.modules["__main__"]))
    assert before, "else multiprocessing has changed, and nothing is shown here"
    with without_script():
        assert not told()
    assert told() == before
    assert vars(sys.modules["__main__"]) == main


def test_want_of_memory_is_named_where_a_process_was_killed() -> None:
    assert "want of memory" in ended_words(2, "process 1 terminated with signal SIGKILL", -signal.SIGKILL)
    words = ended_words(2, "process 0 terminated with exit code 1", 1)
    assert "memory" not in words
    assert "exit code 1" in words
    assert "training.processes = 1" in words


@pytest.mark.e2e
def test_a_script_without_a_guard_is_run_once(tmp_path: Path) -> None:
    draw(tmp_path / "pictures", 30)
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert [line for line in found.stdout.splitlines() if "script" in line] == ["the script", "the script's end"]


@pytest.mark.e2e
@pytest.mark.parametrize("whole", [pytest.param(False, marks=pytest.mark.slow), True])
def test_two_processes_come_to_the_weights_of_one(store: FeatureStore, pictures: Pictures, whole: bool) -> None:
    samples, labels = pictures
    settings = TrainingSettings(epochs=2, batch_size=16, tail_rate=2e-5 if whole else 0.0)
    told: list[tuple[str, int, int]] = []
    chosen = {"settings": settings, "seed": 0, "whole": whole}
    alone = fine_tune(store, samples[:40], labels[:40], CLASSES, **chosen)  # type: ignore[arg-type]
    together = fine_tune_together(
        store, samples[:40], labels[:40], CLASSES, **chosen, processes=2, progress=lambda *words: told.append(words),  # type: ignore[arg-type]
    )  # fmt: skip
    assert "2 processes" in together.words
    assert ("fine-tuning", 2, 2) in told
    losses = [[epoch["loss"] for epoch in model.history] for model in (alone, together)]
    assert np.allclose(losses[0], losses[1], rtol=1e-3)
    ours, theirs = (model.predict(samples[40:]).probabilities for model in (alone, together))
    assert np.allclose(ours, theirs, atol=1e-2)
    assert together.share == alone.share


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", r"exit code 1\).*training\.processes = 1"),
        pytest.param("what went wrong", "what went wrong", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_dies_or_fails_ends_all_with_words(
    store: FeatureStore, pictures: Pictures, words: str, told: str
) -> None:
    samples, labels = pictures
    fatal = Augmentation("fatal", (samples[0].id,), 1, Fatal(os.getpid(), words))
    with pytest.raises(TrainingError, match=told):
        fine_tune_together(
            store, samples[:40], labels[:40], CLASSES, settings=TrainingSettings(epochs=1), seed=0, processes=2,
            augmentations=[fatal],
        )  # fmt: skip
