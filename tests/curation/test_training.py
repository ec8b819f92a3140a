"""Features are computed once, and fine-tuning learns, repeats itself, and goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests_stand_ins import content_id, draw

from curation import training
from curation.backbone import Backbone, load_backbone
from curation.config import TrainingSettings
from curation.errors import DataError, TrainingError
from curation.features import FeatureStore, RowFile
from curation.images import PixelCache
from curation.records import Augmentation, Sample
from curation.training import fine_tune, load_fine_tuned, validation_rows

SETTINGS = TrainingSettings(epochs=3, batch_size=16)
CLASSES = ("c1", "c2")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(size=64)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Sample], np.ndarray]:  # type: ignore[type-arg]
    folder = tmp_path_factory.mktemp("pictures")
    truth = draw(folder, 60)
    samples = [Sample(content_id(folder / path), path, folder / path, "train") for path in truth]
    return samples, np.array([0 if name == "left" else 1 for name in truth.values()])


@pytest.fixture(scope="module")
def store(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("store")
    return FeatureStore(backbone, PixelCache(folder / "pixels", 64), folder / "features")


def invert(image: np.ndarray, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(255 - image, dtype=np.uint8)


def test_features_are_computed_once_and_kept_in_order(store, pictures) -> None:  # type: ignore[no-untyped-def]
    samples, _ = pictures
    told: list[tuple[str, int, int]] = []
    first = store.features(samples, lambda *given: told.append(given))
    assert first.shape == (60, 1280)
    assert told
    told.clear()
    again = store.features(samples[::-1], lambda *given: told.append(given))
    assert np.array_equal(again[::-1], first)
    assert not told


def test_features_and_activations_are_of_the_same_pass(store, pictures) -> None:  # type: ignore[no-untyped-def]
    samples, _ = pictures
    activations = torch.from_numpy(store.activations(samples[:4])).float()
    with torch.inference_mode():
        assert np.allclose(store.backbone.tail(activations).numpy(), store.features(samples[:4]), atol=0.02)


def test_rows_that_were_torn_off_by_a_crash_are_computed_again(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.f32", (3,), np.float32)
    file.append(["a", "b"], np.arange(6).reshape(2, 3))
    with (tmp_path / "rows.f32").open("ab") as out:
        out.write(b"torn")
    file.append(["c"], np.full((1, 3), 9))
    assert file.rows(["c", "a"]).tolist() == [[9, 9, 9], [0, 1, 2]]
    with (tmp_path / "rows.f32").open("r+b") as out:
        out.truncate(5)
    assert file.index() == {}


def test_fine_tuning_learns_and_predicts_images_it_has_not_seen(store, pictures) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    model = fine_tune(store, samples[:40], labels[:40], CLASSES, settings=SETTINGS, seed=0)
    predicted = model.predict(samples[40:])
    right = predicted.probabilities.argmax(axis=1) == labels[40:]
    assert right.mean() >= 0.9
    assert len(model.history) == 3


def test_the_same_seed_gives_the_same_weights_and_another_does_not(store, pictures, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=seed).save(tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_a_saved_model_predicts_the_same_and_needs_its_backbone(store, pictures, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    model = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0)
    model.save(tmp_path / "model.safetensors")
    loaded = load_fine_tuned(tmp_path / "model.safetensors", store)
    assert np.allclose(loaded.predict(samples).probabilities, model.predict(samples).probabilities, atol=1e-6)
    other = FeatureStore(load_backbone(size=96), PixelCache(tmp_path / "p", 96), tmp_path / "f")
    with pytest.raises(DataError, match="was trained on tf_efficientnet_lite0 at 64 px"):
        load_fine_tuned(tmp_path / "model.safetensors", other)


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    store: FeatureStore,
    pictures: tuple[list[Sample], np.ndarray],  # type: ignore[type-arg]
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, labels = pictures
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    whole = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0)

    def stop(what: str, done: int, total: int) -> None:
        if (what, done) == ("fine-tuning", 2):
            raise KeyboardInterrupt

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0, checkpoint=checkpoint, progress=stop)
    told: list[int] = []
    resumed = fine_tune(
        store, samples, labels, CLASSES, settings=SETTINGS, seed=0, checkpoint=checkpoint,
        progress=lambda what, done, total: told.append(done) if what == "fine-tuning" else None,
    )  # fmt: skip
    assert told == [3]
    assert np.array_equal(resumed.predict(samples).probabilities, whole.predict(samples).probabilities)
    assert resumed.history == whole.history
    assert not list(tmp_path.glob("checkpoint*")), "a finished run leaves no checkpoint"


def test_augmented_copies_change_what_is_learnt(store, pictures) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    extra = Augmentation("invert", tuple(s.id for s in samples[:10]), 2, invert)
    plain = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0)
    augmented = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0, augmentations=[extra])
    assert not np.array_equal(plain.predict(samples).probabilities, augmented.predict(samples).probabilities)


def test_validation_rows_leave_something_of_every_class() -> None:
    labels = np.array([0] * 80 + [1] * 8 + [2])
    held = validation_rows(labels, seed=0)
    assert [int(held[labels == c].sum()) for c in (0, 1, 2)] == [9, 0, 0]


def test_what_can_not_be_trained_is_said(store, pictures) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    with pytest.raises(TrainingError, match="at least two classes"):
        fine_tune(store, samples[:4], np.zeros(4, dtype=np.int64), CLASSES, settings=SETTINGS, seed=0)
    wild = TrainingSettings(epochs=2, head_rate=1e30, tail_rate=1e30)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf).* lower training\.head_rate"):
        fine_tune(store, samples, labels, CLASSES, settings=wild, seed=0)
