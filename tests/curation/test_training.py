"""Fine-tuning learns, repeats itself, and goes on where it stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from tests_stand_ins import content_id, draw

from curation import fitting, networks, training
from curation.backbone import Backbone, load_backbone
from curation.config import TrainingSettings
from curation.errors import DataError, TrainingError
from curation.features import FeatureStore
from curation.images import PixelCache
from curation.networks import head_weights
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
    assert loaded.losses.tolist() == model.losses.tolist()
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
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
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


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, "cut", "bare"], ids=["empty", "noise", "cut", "bare"])
def test_a_damaged_checkpoint_is_no_checkpoint(store: FeatureStore, tmp_path: Path, damage: bytes | str) -> None:
    network = networks.fresh_network(store, 2, whole=False)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    fit = fitting.Fit(network, SETTINGS, 0, tmp_path / "checkpoint", "this run", None)
    before = fit.weights()
    about = {"run": "this run", "best_loss": "1.0", "history": "[]"}
    bare = save({"live.0": torch.ones(2)}, metadata=about)
    written = {"cut": bare[:-4], "bare": bare}[damage] if isinstance(damage, str) else damage
    (tmp_path / "checkpoint.safetensors").write_bytes(written)
    assert fit._resume(optimizer) is None
    assert all(torch.equal(now, then) for now, then in zip(fit.weights(), before, strict=True))


def test_augmented_copies_change_what_is_learnt(store, pictures) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    extra = Augmentation("invert", tuple(s.id for s in samples[:10]), 2, invert)
    plain = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0)
    augmented = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0, augmentations=[extra])
    assert not np.array_equal(plain.predict(samples).probabilities, augmented.predict(samples).probabilities)


@pytest.mark.parametrize("way", [False, True], ids=["fine-tuned", "head alone"])
def test_copies_count_a_quarter_of_the_images_at_most(store, pictures, monkeypatch, way: bool) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    seen: dict[str, np.ndarray] = {}  # type: ignore[type-arg]

    def noted(fit: Any, rows: Any, targets: Any, *more: Any) -> Any:
        seen["targets"] = targets.sum(axis=1)
        return run(fit, rows, targets, *more)

    def headed(features: Any, labels: Any, n_classes: int, strength: float, counts: Any = None) -> Any:
        seen["counts"] = counts
        return head_weights(features, labels, n_classes, strength, counts)

    run = training.Fit.run
    monkeypatch.setattr(training.Fit, "run", noted)
    monkeypatch.setattr(training, "head_weights", headed)
    monkeypatch.setattr(training, "_how_far", lambda *given: (0.0 if way else 1.0, 1.0, np.zeros(0)))
    extra = Augmentation("invert", tuple(s.id for s in samples), 2, invert)
    fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0, augmentations=[extra])
    count = len(samples)
    expected = np.concatenate([np.ones(count), np.full(2 * count, 1 / 8)])
    assert np.allclose(seen["targets"], expected, atol=1e-5)
    if way:
        assert np.allclose(seen["counts"], expected)


def test_a_head_alone_balances_classes_too(store, pictures, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Three images of one class count as much as all of the other."""
    samples, labels = pictures
    rows = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:3]])
    seen: list[np.ndarray | None] = []  # type: ignore[type-arg]

    def headed(features: Any, labels: Any, n_classes: int, strength: float, counts: Any = None) -> Any:
        seen.append(counts)
        return head_weights(features, labels, n_classes, strength, counts)

    monkeypatch.setattr(training, "head_weights", headed)
    monkeypatch.setattr(training, "_how_far", lambda *given: (0.0, 1.0, np.zeros(0)))
    settings = replace(SETTINGS, class_balance=True)
    fine_tune(store, [samples[row] for row in rows], labels[rows], CLASSES, settings=settings, seed=0)
    assert seen[-1] is not None
    assert np.bincount(labels[rows], seen[-1]) == pytest.approx([len(rows) / 2] * 2)


def test_the_head_that_training_begins_with_has_not_seen_the_validation_rows(
    store: FeatureStore,
    pictures: tuple[list[Sample], np.ndarray],  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They choose the epoch and set the temperature, so that their own labels must not decide either."""
    samples, labels = pictures
    held = validation_rows(labels, seed=0)
    assert held.sum() == 6
    lied = np.where(held, 1 - labels, labels)
    weights = []
    begin = training._begin_head

    def watched(head: torch.nn.Linear, *given: object) -> float:
        strength = begin(head, *given)  # type: ignore[arg-type]
        weights.append(head.weight.detach().clone())
        return strength

    monkeypatch.setattr(training, "_begin_head", watched)
    monkeypatch.setattr(training, "validation_rows", lambda *_: held)
    for given in (labels, lied):
        fit = fine_tune(store, samples, given, CLASSES, settings=TrainingSettings(epochs=1), seed=0)
        assert len(fit.history) == 1
    assert torch.equal(weights[0], weights[1])


def test_the_whole_network_learns_from_images_repeats_itself_and_comes_back_from_its_file(
    store: FeatureStore,
    pictures: tuple[list[Sample], np.ndarray],  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    samples, labels = pictures
    extra = Augmentation("invert", tuple(s.id for s in samples[:4]), 1, invert)
    models = [
        fine_tune(
            store, samples[:40], labels[:40], CLASSES, settings=SETTINGS, seed=0, augmentations=[extra], whole=True
        )
        for _ in range(2)
    ]
    stem = models[0].network.model.conv_stem.weight
    assert not torch.equal(stem, store.backbone.model.conv_stem.weight), "the first layer learns too"
    predicted = models[0].predict(samples[40:]).probabilities
    assert (predicted.argmax(axis=1) == labels[40:]).mean() >= 0.9
    assert np.array_equal(predicted, models[1].predict(samples[40:]).probabilities)
    models[0].save(tmp_path / "whole.safetensors")
    loaded = load_fine_tuned(tmp_path / "whole.safetensors", store)
    assert np.allclose(loaded.predict(samples[40:]).probabilities, predicted, atol=1e-6)
    assert "all of tf_efficientnet_lite0" in models[0].words


def test_earlier_layers_of_a_whole_network_learn_at_lower_rates(store: FeatureStore) -> None:
    network = networks.fresh_network(store, 2, True)
    rate = {id(p): group["lr"] for group in network.rates(TrainingSettings(tail_rate=1.0)) for p in group["params"]}
    assert set(rate) == {id(p) for p in (*network.model.parameters(), *network.head.parameters())}
    stem, last = rate[id(network.model.conv_stem.weight)], rate[id(network.model.conv_head.weight)]
    assert 0 < stem < 0.1 * last <= 0.1


def test_a_batch_that_memory_does_not_hold_is_taken_in_parts_to_the_same_end(
    store: FeatureStore,
    pictures: tuple[list[Sample], np.ndarray],  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, labels = pictures
    ample = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0)
    logits, room = networks.Network.logits, [5]

    def in_little_memory(network: networks.Network, batch: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() and len(batch) > room[0]:
            raise torch.OutOfMemoryError("no memory")
        return logits(network, batch)

    monkeypatch.setattr(networks.Network, "logits", in_little_memory)
    scarce = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0)
    assert "in parts of 4 for want of memory" in scarce.words
    assert "want of memory" not in ample.words
    assert np.allclose(scarce.predict(samples).probabilities, ample.predict(samples).probabilities, atol=1e-3)
    room[0] = 0
    with pytest.raises(TrainingError, match="does not hold one image"):
        fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0)


def test_varied_images_are_mirrored_or_cropped_and_stay_in_range() -> None:
    ramp = torch.linspace(0, 1, 16).expand(64, 3, 16, 16)
    varied = fitting._vary(ramp, torch.Generator().manual_seed(0))
    slopes = varied[:, 0, 8, 12] - varied[:, 0, 8, 4]
    assert 16 < int((slopes < 0).sum()) < 48, "about half are mirrored"
    assert float(varied.min()) >= 0
    assert float(varied.max()) <= 1
    assert float(slopes.abs().min()) < 0.5 < float(slopes.abs().max()) + 0.05


def test_the_average_follows_the_weights_at_first_and_holds_on_later() -> None:
    assert fitting._averaging(0) == pytest.approx(0.1)
    assert fitting._averaging(10_000) == fitting.AVERAGING


def test_a_file_that_is_no_model_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(DataError, match="is no fine-tuned model"):
        load_fine_tuned(tmp_path / "model.safetensors", store)


def test_validation_rows_leave_something_of_every_class() -> None:
    labels = np.array([0] * 80 + [1] * 8 + [2])
    held = validation_rows(labels, seed=0)
    assert [int(held[labels == c].sum()) for c in (0, 1, 2)] == [9, 0, 0]


def test_validation_rows_have_all_images_of_a_group_or_none() -> None:
    scenes = np.repeat(np.arange(100), 6)
    labels = (scenes % 3).astype(np.int64)
    held = validation_rows(labels, 0, scenes)
    assert [set(held[scenes == scene].tolist()) for scene in range(100)] == [{bool(held[6 * n])} for n in range(100)]
    assert [int(held[labels == c].sum()) for c in (0, 1, 2)] == [24, 24, 24]  # whole scenes from an eighth on
    alone = validation_rows(labels, 0, np.arange(600))
    assert (alone == validation_rows(labels, 0)).all()
    assert not validation_rows(np.repeat([0, 1], 50), 0, np.repeat([7, 8], 50)).any()  # each class is one group


def test_what_can_not_be_trained_is_said(store, pictures) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    with pytest.raises(TrainingError, match="at least two classes"):
        fine_tune(store, samples[:4], np.zeros(4, dtype=np.int64), CLASSES, settings=SETTINGS, seed=0)
    wild = TrainingSettings(epochs=2, head_rate=1e30, tail_rate=1e30)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf).* lower training\.head_rate"):
        fine_tune(store, samples, labels, CLASSES, settings=wild, seed=0)


def test_labels_are_mixed_with_what_has_not_seen_them_as_often_as_it_errs() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(200) % 2
    features = (rng.normal(size=(200, 4)) + 6 * truth[:, None]).astype(np.float32)
    labels = truth.copy()
    labels[:20] = 1 - labels[:20]
    held = np.zeros(200, dtype=bool)
    targets = training._targets(features, labels, held, 3, 0.3, TrainingSettings(), 0)
    assert targets.shape == (200, 3)
    assert np.allclose(targets.sum(axis=1), 1, atol=1e-5)
    given = targets[np.arange(200), labels]
    assert given[:20].max() < given[20:].min(), "labels that look wrong are believed less"
    assert given[20:].min() > 0.9, "right ones nearly wholly"
    assert 0.85 < given[:20].mean() < 0.95, "errs in a tenth, so a tenth is taken away"
    balanced = training._targets(
        features, np.where(np.arange(200) < 50, 0, 1), held, 2, 0.3, TrainingSettings(class_balance=True), 0
    ).sum(axis=1)
    assert balanced[:50].sum() == pytest.approx(balanced[50:].sum(), rel=1e-4)


def test_rows_that_weigh_less_are_smoothed_as_others_are() -> None:
    """Nine of ten images are of one class: balanced, each weighs little, and is to be as sure of its class."""
    labels = (np.arange(200) % 10 == 0).astype(np.int64)
    features = (np.random.default_rng(0).normal(size=(200, 4)) + 6 * labels[:, None]).astype(np.float32)
    settings = TrainingSettings(class_balance=True, label_smoothing=0.1)
    targets = training._targets(features, labels, np.zeros(200, dtype=bool), 2, 0.3, settings, 0)
    shares = targets / targets.sum(axis=1, keepdims=True)
    assert targets[1].sum() == pytest.approx(10 / 18)
    assert np.allclose(shares[np.arange(200), labels], 0.95, atol=0.02)


class Believed:
    """In place of a fit: logits on the held rows by how far the weights went."""

    def __init__(self, logits: dict[float, np.ndarray]) -> None:  # type: ignore[type-arg]
        self.logits, self.network, self.at = logits, self, 1.0

    def weights(self) -> list[torch.Tensor]:
        return []

    def between(self, share: float, after: object) -> None:
        self.at = share

    def read(self, inputs: object) -> np.ndarray:  # type: ignore[type-arg]
        return self.logits[self.at]


def test_fine_tuning_is_taken_as_far_as_it_is_shown_to_do_better() -> None:
    labels = np.arange(40) % 2
    rng = np.random.default_rng(0)
    noise = rng.normal(size=40)
    by_skill = {s: np.stack([-(noise + s * (2 * labels - 1)), noise + s * (2 * labels - 1)], axis=1) for s in (0, 1, 4)}
    better = Believed({0.0: by_skill[0], 0.25: by_skill[1], 0.5: by_skill[4], 0.75: by_skill[1], 1.0: by_skill[0]})
    share, temperature, losses = training._how_far(better, np.zeros((40, 1)), labels)  # type: ignore[arg-type]
    assert share == better.at == 0.5
    assert temperature == pytest.approx(training.temperature_of(by_skill[4], labels))
    assert losses.mean() == pytest.approx(networks.log_loss(by_skill[4] / temperature, labels))
    worse = Believed({share: by_skill[1] if share else by_skill[4] for share in training.SHARES})
    assert training._how_far(worse, np.zeros((40, 1)), labels)[0] == worse.at == 0.0  # type: ignore[arg-type]


def test_the_way_of_the_last_iteration_is_kept_unless_the_other_is_shown_to_be_better() -> None:
    labels = np.arange(40) % 2
    sure = np.random.default_rng(0).normal(1.0, 1.0, size=40) * (2 * labels - 1)
    plain, inputs = np.stack([-sure, sure], axis=1), np.zeros((40, 1))
    lucky, skilled = plain.copy(), plain + 2 * np.stack([1 - labels, labels], axis=1)
    lucky[0] *= 1.01 if plain[0].argmax() == labels[0] else 0.99

    def chosen(head: np.ndarray, tuned: np.ndarray, gone: float | None) -> float:  # type: ignore[type-arg]
        fit = Believed({share: tuned if share else head for share in training.SHARES})
        share = training._how_far(fit, inputs, labels, gone)[0]  # type: ignore[arg-type]
        assert fit.at == share, "what was chosen is in the network"
        return share

    assert chosen(plain, lucky, None) > 0, "at first the lower loss decides"
    assert chosen(plain, lucky, 0.0) == 0.0, "chance shows nothing"
    assert chosen(lucky, plain, 0.5) > 0
    assert chosen(plain, skilled, 0.0) > 0
    assert chosen(skilled, plain, 1.0) == 0.0


def test_where_fine_tuning_is_not_shown_to_help_the_head_alone_learns_from_every_row(
    store: FeatureStore,
    pictures: tuple[list[Sample], np.ndarray],  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, labels = pictures

    def never(fit: fitting.Fit, *given: object) -> tuple[float, float, training.Losses]:
        fit.between(0.0, fit.weights())
        return 0.0, 1.0, np.full(3, 0.5)

    monkeypatch.setattr(training, "_how_far", never)
    model = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0)
    assert "fine-tuning was not shown to do better" in model.words
    assert torch.equal(model.network.model.conv_head.weight, store.backbone.model.conv_head.weight)
    features = store.features(samples)
    weight, bias = training.head_weights(features, labels, 2, training.STRENGTHS[0])
    assert np.allclose(model.network.head.weight.detach().numpy(), weight, atol=1e-5)
    assert np.allclose(model.network.head.bias.detach().numpy(), bias, atol=1e-4)


def test_a_warm_start_begins_with_the_weights_of_an_earlier_model(
    store: FeatureStore,
    pictures: tuple[list[Sample], np.ndarray],  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    samples, labels = pictures
    earlier = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=1)
    earlier.save(tmp_path / "earlier.safetensors")
    still = TrainingSettings(epochs=1, head_rate=1e-12, tail_rate=1e-12, weight_decay=0.0, warm_start=True)
    warm = fine_tune(store, samples, labels, CLASSES, settings=still, seed=0, before=tmp_path / "earlier.safetensors")
    assert "from the last iteration's weights" in warm.words
    assert torch.allclose(warm.network.model.conv_head.weight, earlier.network.model.conv_head.weight, atol=1e-6)
    for other in ("none.safetensors", "other.safetensors"):
        if other.startswith("other"):
            fine_tune(store, samples, labels, ("c1", "c3"), settings=SETTINGS, seed=1).save(tmp_path / other)
        cold = fine_tune(store, samples, labels, CLASSES, settings=still, seed=0, before=tmp_path / other)
        assert "from the last" not in cold.words
        assert torch.allclose(cold.network.model.conv_head.weight, store.backbone.model.conv_head.weight, atol=1e-6)


def test_training_asks_which_way_the_model_before_went(
    store: FeatureStore,
    pictures: tuple[list[Sample], np.ndarray],  # type: ignore[type-arg]
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, labels = pictures
    told: list[float | None] = []

    def quarter(
        fit: fitting.Fit, inputs: object, labels: object, gone: float | None
    ) -> tuple[float, float, training.Losses]:
        told.append(gone)
        return 0.25, 1.0, np.full(3, 0.5)

    monkeypatch.setattr(training, "_how_far", quarter)
    for before in (None, tmp_path / "model.safetensors", tmp_path / "model.safetensors"):
        model = fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0, before=before)
        model.save(tmp_path / "model.safetensors")
    fine_tune(store, samples, labels, CLASSES, settings=SETTINGS, seed=0, before=tmp_path / "gone.safetensors")
    assert told == [None, 0.25, 0.25, None]


def test_mixup_and_cutmix_mix_rows_and_targets_alike() -> None:
    inputs = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 10, 10).contiguous()
    targets = torch.eye(8)
    for settings in (TrainingSettings(mixup=1.0), TrainingSettings(cutmix=1.0)):
        mixed, wanted = fitting._mixed(inputs, targets, settings, torch.Generator().manual_seed(3))
        assert torch.allclose(wanted.sum(dim=1), torch.ones(8))
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), wanted @ torch.arange(8.0), atol=1e-4)
        assert not torch.equal(wanted, targets)
        whole = torch.equal(mixed, mixed.round())
        assert whole == (settings.cutmix > 0), "cutmix pastes, mixup blends"
    same, kept = fitting._mixed(inputs, targets, TrainingSettings(), torch.Generator())
    assert same is inputs
    assert kept is targets


def test_training_ends_when_the_validation_loss_gets_no_better(
    store: FeatureStore,
    pictures: tuple[list[Sample], np.ndarray],  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, labels = pictures
    losses = iter([3.0, 2.0, 2.5, 2.5, 2.5, 1.0])
    monkeypatch.setattr(fitting, "FEW", 1)
    monkeypatch.setattr(fitting.Fit, "_validation_loss", lambda *_: next(losses))
    model = fine_tune(store, samples, labels, CLASSES, settings=TrainingSettings(epochs=9), seed=0)
    assert [epoch["validation_loss"] for epoch in model.history] == [3.0, 2.0, 2.5, 2.5, 2.5]


def test_every_option_together_still_learns(store, pictures) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    settings = TrainingSettings(epochs=6, batch_size=16, class_balance=True, mixup=0.2, cutmix=0.2)
    model = fine_tune(store, samples[:40], labels[:40], CLASSES, settings=settings, seed=0)
    assert (model.predict(samples[40:]).probabilities.argmax(axis=1) == labels[40:]).mean() >= 0.9


def test_deterministic_training_repeats_itself_and_leaves_torch_as_it_was(store, pictures, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    samples, labels = pictures
    settings = TrainingSettings(epochs=1, batch_size=16, deterministic=True)
    seen: list[bool] = []
    for name in ("a", "b"):
        model = fine_tune(
            store, samples[:40], labels[:40], CLASSES, settings=settings, seed=0, whole=True,
            progress=lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()),
        )  # fmt: skip
        model.save(tmp_path / name)
    assert seen
    assert all(seen)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_is_never_the_same_is_named(
    store: FeatureStore, pictures: tuple[list[Sample], np.ndarray], monkeypatch: pytest.MonkeyPatch  # type: ignore[type-arg]
) -> None:  # fmt: skip
    samples, labels = pictures

    def refused(_self: object, _batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("some_backward_cuda does not have a deterministic implementation, but you set")

    monkeypatch.setattr(networks.Network, "logits", refused)
    settings = TrainingSettings(epochs=1, deterministic=True)
    with pytest.raises(TrainingError, match=r"some_backward_cuda gives .* training\.deterministic = false"):
        fine_tune(store, samples[:40], labels[:40], CLASSES, settings=settings, seed=0)
    assert not torch.are_deterministic_algorithms_enabled()


def compiled_settings(batch_size: int = 8) -> TrainingSettings:
    return TrainingSettings(epochs=1, batch_size=batch_size, compile="on")


def test_a_compiled_network_is_trained_to_the_same_end(
    store: FeatureStore, pictures: tuple[list[Sample], np.ndarray], monkeypatch: pytest.MonkeyPatch  # type: ignore[type-arg]
) -> None:  # fmt: skip
    samples, labels = pictures
    taken: list[int] = []

    def compile_(model: torch.nn.Module, *, dynamic: bool) -> object:
        assert not dynamic

        def run(batch: torch.Tensor) -> torch.Tensor:
            taken.append(len(batch))
            return model(batch)  # type: ignore[no-any-return]

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    plain = TrainingSettings(epochs=1, batch_size=8)
    models = [
        fine_tune(store, samples[:40], labels[:40], CLASSES, settings=chosen, seed=0, whole=True)
        for chosen in (plain, compiled_settings())
    ]
    predicted = [m.predict(samples[40:]).probabilities for m in models]
    assert np.allclose(predicted[0], predicted[1], atol=1e-5)
    assert set(taken) == {8}  # what is left of an epoch goes through the network as it is
    assert ["compiled" in m.words for m in models] == [False, True]


def test_where_compiling_fails_training_goes_on_and_says_so(
    store: FeatureStore, pictures: tuple[list[Sample], np.ndarray], monkeypatch: pytest.MonkeyPatch  # type: ignore[type-arg]
) -> None:  # fmt: skip
    def compile_(_model: torch.nn.Module, *, dynamic: bool) -> object:
        def run(_batch: torch.Tensor) -> torch.Tensor:
            raise ImportError("no compiler")

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    samples, labels = pictures
    model = fine_tune(store, samples[:40], labels[:40], CLASSES, settings=compiled_settings(), seed=0, whole=True)
    assert "not compiled (ImportError)" in model.words


def test_only_a_long_training_on_cuda_is_compiled_by_itself(store: FeatureStore) -> None:
    network = networks.fresh_network(store, 2, whole=True)
    fit = fitting.Fit(network, TrainingSettings(batch_size=2), 0, None, "", None)
    fit._compile(networks.Placed([np.zeros((4, 64, 64, 3), np.uint8)], store.backbone.device), np.arange(4), 10**6)
    assert fit.compiled == ""
