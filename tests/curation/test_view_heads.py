"""A head on views learns, is chosen by what it has not seen, and is one network with what makes its views."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests_stand_ins import content_id, draw

from curation import copies, features, steadying
from curation.backbone import load_backbone
from curation.config import TrainingSettings
from curation.errors import DataError, TrainingError
from curation.exports import export_model, load_exported
from curation.features import ViewFeatures
from curation.records import Augmentation, Sample
from curation.regression import LeaveOutKernel, log_loss
from curation.scaling import scale
from curation.steadying import steadied
from curation.view_heads import ViewModel, ViewTrainer, arrays_of, fit_view_head, head_of, load_view_model, network_of
from curation.ways import way_of

CLASSES = ("c1", "c2")
Columns = npt.NDArray[np.int64]


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewFeatures]:
    patched = pytest.MonkeyPatch()
    patched.setattr(features, "_SMALLEST_VIEW", 64)
    found = ViewFeatures(load_backbone(size=64, device="cpu"), tmp_path_factory.mktemp("views"))
    assert found.sizes == [64, 32]
    yield found
    patched.undo()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Sample], Columns]:
    folder = tmp_path_factory.mktemp("pictures")
    truth = draw(folder, 60)
    samples = [Sample(content_id(folder / path), path, folder / path, "train") for path in truth]
    return samples, np.array([0 if name == "left" else 1 for name in truth.values()])


def trainer(views: ViewFeatures, *, alike: int = 1) -> ViewTrainer:
    return ViewTrainer(views, TrainingSettings(), lambda samples: np.arange(len(samples)) // alike)


def blobs(count: int, classes: int = 3, apart: float = 2.0, seed: int = 0) -> tuple[npt.NDArray[np.float32], Columns]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    centres = apart * np.random.default_rng(99).normal(size=(classes, 20))
    return (centres[labels] + 2 * rng.normal(size=(count, 20))).astype(np.float32), labels


def invert(image: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    return np.asarray(255 - image, dtype=np.uint8)


def test_it_predicts_images_that_it_has_not_seen(views: ViewFeatures, pictures: tuple[list[Sample], Columns]) -> None:
    samples, labels = pictures
    model = trainer(views).train(
        samples[:40], labels[:40], CLASSES, seed=0, augmentations=(), checkpoint=Path(), progress=None
    )
    found = model.predict(samples[40:])
    assert found.sample_ids == tuple(s.id for s in samples[40:])
    assert np.allclose(found.probabilities.sum(axis=1), 1)
    assert (found.probabilities.argmax(axis=1) == labels[40:]).mean() >= 0.9
    assert "at 64, 32 px with mirror images, on 40 images (strength " in model.words
    assert model.predict([]).probabilities.shape == (0, 2)


def test_a_saved_model_is_the_same_file_each_time_and_predicts_the_same(
    views: ViewFeatures, pictures: tuple[list[Sample], Columns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, labels = pictures
    for name in ("a", "b"):
        model = trainer(views).train(
            samples, labels, CLASSES, seed=0, augmentations=(), checkpoint=Path(), progress=None
        )
        model.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = load_view_model(tmp_path / "a", views)
    assert loaded.words == model.words
    assert np.array_equal(loaded.predict(samples).probabilities, model.predict(samples).probabilities)
    turning = trainer(views.looking(rotation_invariant=True)).train(
        samples, labels, CLASSES, seed=0, augmentations=(), checkpoint=Path(), progress=None
    )
    assert "with mirror and turned images" in turning.words
    turning.save(tmp_path / "turning")
    loaded = load_view_model(tmp_path / "turning", views)
    assert loaded.views.turned == [False, True], "a model looks as it did when it was trained"
    assert np.array_equal(loaded.predict(samples).probabilities, turning.predict(samples).probabilities)
    assert not np.allclose(loaded.predict(samples).probabilities, model.predict(samples).probabilities, atol=1e-6)
    other = ViewFeatures(load_backbone(size=96, device="cpu"), tmp_path)
    with pytest.raises(DataError, match="was trained on tf_efficientnet_lite0 at 64, 32 px with other weights"):
        load_view_model(tmp_path / "a", other)
    monkeypatch.setattr(features, "_CORRELATED", 16)
    with pytest.raises(DataError, match="was trained by another version of the toolkit; train again"):
        load_view_model(tmp_path / "a", ViewFeatures(views.backbone, tmp_path))
    (tmp_path / "a").write_bytes(b"not weights")
    with pytest.raises(DataError, match="is no head on views; train again"):
        load_view_model(tmp_path / "a", views)


@pytest.mark.parametrize("rotation_invariant", [False, True])
def test_one_network_from_pixels_gives_its_probabilities(
    views: ViewFeatures, pictures: tuple[list[Sample], Columns], rotation_invariant: bool
) -> None:
    samples, labels = pictures
    views = views.looking(rotation_invariant=rotation_invariant)
    model = trainer(views).train(samples, labels, CLASSES, seed=0, augmentations=(), checkpoint=Path(), progress=None)
    network = network_of(views.backbone.model, views.backbone.mean, views.backbone.std, model.head, views.turned)
    pixels = [torch.from_numpy(views.decode(samples[:5], size)) for size in views.sizes]
    with torch.inference_mode():
        found = network(*pixels).numpy()
    assert np.allclose(found, model.predict(samples[:5]).probabilities, atol=1e-4)
    assert np.ptp(found[:, 0]) > 0.2, "they differ from image to image"


def test_what_aligned_copies_change_is_looked_past_by_the_model_its_file_and_its_network(
    views: ViewFeatures, pictures: tuple[list[Sample], Columns], tmp_path: Path
) -> None:
    """An inverted image differs from its image less to the aligned model than to the other."""
    samples, labels = pictures
    copied = Augmentation("inverted", tuple(s.id for s in samples[:40]), 1, invert)
    plain, aligned = (
        trainer(views).train(
            samples, labels, CLASSES, seed=0, augmentations=[replace(copied, aligned=wanted)], checkpoint=Path(),
            progress=None,
        )
        for wanted in (False, True)
    )  # fmt: skip
    assert len(plain.head.nuisance) == 0
    assert "60 images and 40 augmented copies (" in plain.words
    assert "and 40 augmented copies looking past what these change most (" in aligned.words
    assert 1 <= len(aligned.head.nuisance) <= 20
    looks = [views.encode(lambda side: views.decode(samples[40:], side)),
             views.encode(lambda side: 255 - views.decode(samples[40:], side))]  # fmt: skip

    def moved(model: ViewModel) -> float:
        near = [model.head.nearness(model.head.rows(look)) for look in looks]
        return float(np.abs(near[0] - near[1]).mean())

    assert moved(aligned) < 0.8 * moved(plain)
    aligned.save(tmp_path / "aligned")
    loaded = load_view_model(tmp_path / "aligned", views)
    assert np.array_equal(loaded.predict(samples).probabilities, aligned.predict(samples).probabilities)
    network = network_of(views.backbone.model, views.backbone.mean, views.backbone.std, aligned.head, views.turned)
    with torch.inference_mode():
        found = network(*(torch.from_numpy(views.decode(samples[:5], size)) for size in views.sizes)).numpy()
    assert np.allclose(found, aligned.predict(samples[:5]).probabilities, atol=1e-3)


def test_a_network_that_learnt_is_in_the_models_file_and_in_what_is_made_of_it(
    views: ViewFeatures, pictures: tuple[list[Sample], Columns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadying, "SHOWN", 120)
    samples, labels = pictures
    copied = Augmentation("inverted", tuple(s.id for s in samples[:40]), 1, invert)
    network = steadied(views, samples[:50], copied, tmp_path / "networks", seed=0)
    assert network is not None
    copied = replace(copied, network=network)
    for name in ("a", "b"):
        model = trainer(views).train(
            samples, labels, CLASSES, seed=0, augmentations=[copied], checkpoint=Path(), progress=None
        )
        model.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "tf_efficientnet_lite0, taught to see past a recipe, at 64, 32 px with mirror images, on 60" in model.words
    assert model.rows == 60, "of no copy"
    plain = trainer(views).train(samples, labels, CLASSES, seed=0, augmentations=(), checkpoint=Path(), progress=None)
    found = model.predict(samples).probabilities
    assert not np.allclose(found, plain.predict(samples).probabilities, atol=1e-3)
    network.unlink()
    loaded = load_view_model(tmp_path / "a", views)
    assert loaded.words == model.words
    assert loaded.views.backbone.identity == model.views.backbone.identity != views.backbone.identity
    assert np.array_equal(loaded.predict(samples).probabilities, found)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "a").read_bytes()
    assert way_of(tmp_path / "a", views.backbone.identity) == "views"
    exported = tmp_path / "exported.safetensors"
    assert export_model(loaded, ["left", "right"], exported, "safetensors", samples[:4]) < 1e-3
    with torch.inference_mode():
        pixels = [torch.from_numpy(views.decode(samples[:5], size)) for size in views.sizes]
        told = load_exported(exported.read_bytes())(*pixels).numpy()
    assert np.allclose(told, found[:5], atol=1e-3)
    other = ViewFeatures(load_backbone(size=96, device="cpu"), tmp_path)
    with pytest.raises(DataError, match="was trained on tf_efficientnet_lite0 at 64, 32 px with other weights"):
        load_view_model(tmp_path / "a", other)


def test_a_head_of_before_looks_past_nothing() -> None:
    head, _ = fit_view_head(*blobs(60), 3, groups=np.arange(60), widths=(), seed=0)
    arrays = arrays_of(head)
    del arrays["nuisance"]
    assert np.array_equal(head_of(arrays).probabilities(blobs(9)[0]), head.probabilities(blobs(9)[0]))


def test_augmented_copies_are_learnt_from_and_left_out_with_what_they_are_of(
    views: ViewFeatures, pictures: tuple[list[Sample], Columns], monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, labels = pictures
    seen: dict[str, np.ndarray] = {}
    monkeypatch.setattr(copies, "COPIES_SHARE", 0.1)

    def noted(features: np.ndarray, labels: Columns, n_classes: int, **how: Any) -> object:
        seen.update(features=features.copy(), labels=labels, groups=how["groups"], weights=how["weights"])
        return fit_view_head(features, labels, n_classes, **how)

    monkeypatch.setattr("curation.view_heads.fit_view_head", noted)
    copied = Augmentation("inverted", tuple(s.id for s in samples[:6]), 2, invert)
    told: list[tuple[str, int, int]] = []
    model = trainer(views, alike=2).train(
        samples, labels, CLASSES, seed=0, augmentations=[copied], checkpoint=Path(),
        progress=lambda *given: told.append(given),
    )  # fmt: skip
    assert model.rows == 72
    assert "on 60 images and 12 augmented copies (strength " in model.words
    assert seen["groups"][60:].tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert seen["labels"][60:].tolist() == labels[:6].tolist() * 2
    assert seen["weights"].tolist() == [1.0] * 60 + [0.5] * 12, "a tenth of sixty for twelve"
    assert told[-1] == ("computing augmented images", 12, 12)
    as_they_are = views.encode(lambda side: 255 - views.decode(samples[:6], side), mirror=False)
    first = slice(sum(views.widths) // len(views.sizes))  # the others are made smaller before, not after
    assert np.allclose(seen["features"][60:66, first], as_they_are[:, first], rtol=2e-3, atol=2e-3)
    plain = trainer(views).train(samples, labels, CLASSES, seed=0, augmentations=(), checkpoint=Path(), progress=None)
    turned = views.encode(lambda side: 255 - views.decode(samples[6:20], side))
    losses = [log_loss(m.head.probabilities(turned), labels[6:20]) for m in (plain, model)]
    assert losses[1] < losses[0], "inverted images are told better by who has learnt from some"


def test_the_fit_is_the_one_whose_errors_left_out_chose_it() -> None:
    """Kernel regression as written out, and a mean of two distributions."""
    inputs, labels = blobs(80)
    rows = scale(inputs)
    regression = LeaveOutKernel(rows, 3, np.arange(80), 0)
    regression.choose(labels)
    fitted = regression.fitted(labels)
    distances = ((rows[:, None].astype(np.float64) - rows[None]) ** 2).sum(axis=2)
    kernel = np.exp(-distances / np.median(distances))
    ridge = kernel + (1e-4 + regression._noise) * np.eye(80)  # the jitter is part of the kernel
    expected = kernel @ np.linalg.solve(ridge, np.eye(3)[labels] - 1 / 3)
    own = np.exp(-distances / fitted.width) @ fitted.coefficients
    assert np.allclose(own, expected, atol=2e-3)
    head, chosen = fit_view_head(inputs, labels, 3, groups=np.arange(80), widths=(), seed=0)
    assert chosen["noise"] == regression._noise
    fresh, truth = blobs(200, seed=1)
    assert (head.probabilities(fresh).argmax(axis=1) == truth).mean() > 0.85


def test_noise_in_twins_does_not_choose_the_fit() -> None:
    """Twins share a wrong label: what has seen one knows the other, and thinks that little noise is best."""
    inputs, truth = blobs(100)
    rng = np.random.default_rng(5)
    wrong = np.where(rng.random(100) < 0.4, rng.integers(3, size=100), truth)
    twice, labels = np.repeat(inputs, 2, axis=0), np.repeat(wrong, 2)
    alone = fit_view_head(twice, labels, 3, groups=np.arange(200), widths=(), seed=0)[1]
    together = fit_view_head(twice, labels, 3, groups=np.arange(200) // 2, widths=(), seed=0)[1]
    assert together["noise"] > alone["noise"]


def test_many_classes_and_many_samples_are_learnt_from() -> None:
    inputs, labels = blobs(2500, classes=120, apart=4.0)
    head, chosen = fit_view_head(inputs, labels, 120, groups=np.arange(2500), widths=(), seed=0)
    assert list(chosen) == ["noise"], "a logistic fit of so many classes takes minutes"
    assert head.landmarks.shape == (2000, 20)
    assert len(head.weights) == 0
    fresh, truth = blobs(500, classes=120, apart=4.0, seed=1)
    assert (head.probabilities(fresh).argmax(axis=1) == truth).mean() > 0.8


def test_balanced_classes_are_taken_to_be_equally_frequent() -> None:
    inputs, labels = blobs(400, classes=2, apart=0.3)
    kept = (labels == 0) | (np.random.default_rng(0).random(400) < 0.1)
    inputs, labels = inputs[kept], labels[kept]
    given = {"groups": np.arange(len(labels)), "widths": (), "seed": 0}
    rare = [
        fit_view_head(inputs, labels, 2, **given, class_balance=balance)[0].probabilities(inputs)[:, 1].mean()  # type: ignore[arg-type]
        for balance in (False, True)
    ]
    assert rare[0] < 0.15
    assert rare[1] == pytest.approx(0.5, abs=0.15)


def test_balanced_classes_are_those_that_have_labels() -> None:
    """The kernel gives a class without labels some per cent; taken for a rare one, it would be predicted."""
    inputs, labels = blobs(300, classes=2, apart=0.3)
    given = {"groups": np.arange(300), "widths": (), "seed": 0, "class_balance": True}
    of_two, of_five = (fit_view_head(inputs, labels, count, **given)[0] for count in (2, 5))  # type: ignore[arg-type]
    predicted = of_five.probabilities(inputs).argmax(axis=1)
    assert (predicted < 2).all()
    assert (predicted == of_two.probabilities(inputs).argmax(axis=1)).mean() > 0.9


def test_a_class_without_samples_is_hardly_predicted_and_one_class_is_refused() -> None:
    inputs, labels = blobs(60, classes=2)
    head, _ = fit_view_head(inputs, labels, 4, groups=np.zeros(60, dtype=np.int64), widths=(), seed=0)
    assert head.probabilities(inputs)[:, 2:].max() < 0.35
    assert (head.probabilities(inputs).argmax(axis=1) < 2).all()
    assert {name: array.dtype for name, array in arrays_of(head).items() if name == "landmarks"} == {
        "landmarks": np.dtype(np.float16)
    }
    with pytest.raises(TrainingError, match="at least two classes"):
        fit_view_head(inputs, np.zeros(60, dtype=np.int64), 2, groups=np.arange(60), widths=(), seed=0)
