"""Fine-tuning on CUDA: the whole network, in bf16; each test has its twin in ``tests/curation``, in
test_training.py or test_parallel.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests_stand_ins import content_id, draw

from curation.backbone import load_backbone
from curation.config import TrainingSettings
from curation.features import FeatureStore
from curation.images import PixelCache
from curation.parallel import fine_tune_together
from curation.records import Augmentation, Sample
from curation.training import fine_tune, load_fine_tuned

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

SETTINGS = TrainingSettings(epochs=6, batch_size=16)
CLASSES = ("c1", "c2")
Pictures = tuple[list[Sample], npt.NDArray[np.int64]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder = tmp_path_factory.mktemp("pictures")
    truth = draw(folder, 60)
    samples = [Sample(content_id(folder / path), path, folder / path, "train") for path in truth]
    return samples, np.array([0 if name == "left" else 1 for name in truth.values()])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("store")
    return FeatureStore(load_backbone(size=64, device="cuda"), PixelCache(folder / "pixels", 64), folder / "features")


def invert(image: npt.NDArray[np.uint8], _seed: int) -> npt.NDArray[np.uint8]:
    return np.asarray(255 - image, dtype=np.uint8)


def test_features_are_those_of_the_cpu(store: FeatureStore, pictures: Pictures, tmp_path: Path) -> None:
    on_cpu = FeatureStore(load_backbone(size=64, device="cpu"), PixelCache(tmp_path / "pixels", 64), tmp_path / "f")
    ours, theirs = store.features(pictures[0]), on_cpu.features(pictures[0])
    assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()


def test_the_whole_network_learns_and_comes_back_from_its_file(
    store: FeatureStore, pictures: Pictures, tmp_path: Path
) -> None:
    samples, labels = pictures
    extra = Augmentation("invert", tuple(s.id for s in samples[:4]), 1, invert)
    model = fine_tune(store, samples[:40], labels[:40], CLASSES, settings=SETTINGS, seed=0, augmentations=[extra])
    assert "all of tf_efficientnet_lite0" in model.words
    predicted = model.predict(samples[40:]).probabilities
    assert (predicted.argmax(axis=1) == labels[40:]).mean() >= 0.9
    model.save(tmp_path / "whole.safetensors")
    loaded = load_fine_tuned(tmp_path / "whole.safetensors", store)
    assert np.allclose(loaded.predict(samples[40:]).probabilities, predicted, atol=1e-2)


def test_the_last_blocks_learn_on_cached_activations(store: FeatureStore, pictures: Pictures) -> None:
    samples, labels = pictures
    model = fine_tune(store, samples[:40], labels[:40], CLASSES, settings=SETTINGS, seed=0, whole=False)
    predicted = model.predict(samples[40:]).probabilities
    assert (predicted.argmax(axis=1) == labels[40:]).mean() >= 0.9


def test_every_option_together_still_learns(store: FeatureStore, pictures: Pictures) -> None:
    samples, labels = pictures
    settings = TrainingSettings(epochs=6, batch_size=16, class_balance=True, mixup=0.2, cutmix=0.2)
    model = fine_tune(store, samples[:40], labels[:40], CLASSES, settings=settings, seed=0)
    assert (model.predict(samples[40:]).probabilities.argmax(axis=1) == labels[40:]).mean() >= 0.9


def test_deterministic_training_gives_the_same_file_twice(
    store: FeatureStore, pictures: Pictures, tmp_path: Path
) -> None:
    samples, labels = pictures
    settings = TrainingSettings(epochs=2, batch_size=16, deterministic=True)
    for name in ("a", "b"):
        fine_tune(store, samples[:40], labels[:40], CLASSES, settings=settings, seed=0).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_compiled_network_learns(store: FeatureStore, pictures: Pictures) -> None:
    samples, labels = pictures
    settings = TrainingSettings(epochs=6, batch_size=16, compile="on")
    model = fine_tune(store, samples[:40], labels[:40], CLASSES, settings=settings, seed=0)
    assert ", compiled" in model.words
    assert (model.predict(samples[40:]).probabilities.argmax(axis=1) == labels[40:]).mean() >= 0.9


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device at most")
def test_two_gpus_learn_together(store: FeatureStore, pictures: Pictures) -> None:
    samples, labels = pictures
    model = fine_tune_together(store, samples[:40], labels[:40], CLASSES, settings=SETTINGS, seed=0, processes=2)
    assert "2 processes" in model.words
    assert (model.predict(samples[40:]).probabilities.argmax(axis=1) == labels[40:]).mean() >= 0.9
