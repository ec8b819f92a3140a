"""A network is taught by a recipe to see copies as it sees their images, from no label, and from where it stopped."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import save_file
from tests_stand_ins import content_id, draw

from curation import features, steadying
from curation.backbone import load_backbone
from curation.features import ViewFeatures
from curation.records import Augmentation, Sample
from curation.steadying import ViewTeacher, seen_by, steadied


def invert(image: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    return np.asarray(255 - image, dtype=np.uint8)


COPIES = Augmentation("inverted", (), 1, invert)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewFeatures]:
    patched = pytest.MonkeyPatch()
    patched.setattr(features, "_SMALLEST_VIEW", 64)
    yield ViewFeatures(load_backbone(size=64, device="cpu"), tmp_path_factory.mktemp("views"))
    patched.undo()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("pictures")
    return [Sample(content_id(folder / path), path, folder / path, "train") for path in draw(folder, 80)]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steadying, "SHOWN", 3 * 2 * 30)
    monkeypatch.setattr(steadying, "FEWEST_TAUGHT", 30)


def apart(views: ViewFeatures, some: npt.NDArray[np.uint8], others: npt.NDArray[np.float32]) -> float:
    """How far what is seen of images is from other features, in deviations of these."""
    seen = views.encode(lambda side: features.resized(some, side))
    deviation = others.std(axis=0)
    told = deviation > 1e-3
    return float((((seen - others)[:, told] / deviation[told]) ** 2).mean())


def made_of(file: Path | None) -> Path:
    assert file is not None
    return file


def test_copies_are_seen_as_their_images_are_and_images_as_before(
    views: ViewFeatures, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadying, "SHOWN", 10 * 2 * 60)
    monkeypatch.setattr(steadying, "RATE", 5e-4)  # forty steps are few
    taught, unseen = samples[:60], samples[60:]
    after = seen_by(views, made_of(steadied(views, taught, COPIES, tmp_path, seed=0)))
    assert after.backbone.identity != views.backbone.identity
    assert not any(p.requires_grad for p in after.backbone.model.parameters())
    pixels = views.pixels(unseen)
    inverted = np.stack([invert(image, 0) for image in pixels])
    wanted = views.features(unseen)
    before = apart(views, inverted, wanted)
    assert apart(after, inverted, wanted) < 0.6 * before
    assert apart(after, pixels, wanted) < 0.6 * before


def test_the_same_is_made_once_and_goes_on_where_it_stopped(
    views: ViewFeatures, samples: list[Sample], tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadying, "CHECKPOINT_SECONDS", 0.0)
    told: list[tuple[int, int]] = []

    def note(doing: str, done: int, total: int) -> None:
        if doing.startswith("teaching"):
            told.append((done, total))

    whole = made_of(steadied(views, samples[:30], COPIES, tmp_path / "whole", seed=0, progress=note))
    assert told == [(step, 6) for step in range(1, 7)]
    written = whole.read_bytes()
    told.clear()
    assert steadied(views, samples[:30], COPIES, tmp_path / "whole", seed=0, progress=note) == whole
    assert told == []
    assert whole.read_bytes() == written

    def stop(doing: str, done: int, total: int) -> None:
        note(doing, done, total)
        if told and told[-1][0] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steadied(views, samples[:30], COPIES, tmp_path / "parts", seed=0, progress=stop)
    assert list((tmp_path / "parts").glob("*.safetensors")) == []
    told.clear()
    parts = made_of(steadied(views, samples[:30], COPIES, tmp_path / "parts", seed=0, progress=note))
    assert told[0] == (3, 6), "the first epoch is not done again"
    assert parts.name == whole.name
    assert parts.read_bytes() == written
    assert [file.name for file in parts.parent.iterdir()] == [parts.name]
    others = [(samples[:30], 1), (samples[:29], 0)]
    made = [steadied(views, some, COPIES, tmp_path / "whole", seed=seed) for some, seed in others]
    assert len({made_of(file).name for file in (whole, *made)}) == 3


def test_what_is_left_of_a_stopped_one_may_be_damaged(
    views: ViewFeatures, samples: list[Sample], tmp_path: Path, short: None
) -> None:
    whole = made_of(steadied(views, samples[:30], COPIES, tmp_path, seed=0))
    written = whole.read_bytes()
    whole.rename(whole.with_suffix(".partial"))  # of weights alone
    assert made_of(steadied(views, samples[:30], COPIES, tmp_path, seed=0)).read_bytes() == written
    whole.unlink()
    whole.with_suffix(".partial").write_bytes(b"torn")
    assert made_of(steadied(views, samples[:30], COPIES, tmp_path, seed=0)).read_bytes() == written


def test_the_last_networks_are_kept_with_what_they_saw(
    views: ViewFeatures, samples: list[Sample], tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadying, "MOST_KEPT", 2)
    teacher = ViewTeacher(views, tmp_path / "networks")
    assert teacher.taught(samples[: steadying.FEWEST_TAUGHT - 1], COPIES, 0) is None
    folders, files = [], []
    for seed in (0, 1):
        file = teacher.taught(samples[:30], COPIES, seed)
        assert file is not None
        seen = teacher.seen_by(file)
        seen.features(samples[:2])
        files.append(file)
        folders.append([f for f in views._folder.iterdir() if f.name.startswith(seen.backbone.identity)])
        assert len(folders[-1]) == len(views.sizes)
    teacher.taught(samples[:30], COPIES, 0)  # used again, so it is the other one that goes
    teacher.taught(samples[:30], COPIES, 2)
    assert files[0].exists()
    assert not files[1].exists()
    assert all(f.exists() for f in folders[0])
    assert not any(f.exists() for f in folders[1])
    assert views._folder.exists()
    assert any(f.name.startswith(views.backbone.identity) for f in views._folder.iterdir())


def test_no_more_than_so_many_teach(
    views: ViewFeatures, samples: list[Sample], tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadying, "MOST_TAUGHT", 30)
    teacher = ViewTeacher(views, tmp_path)
    assert teacher.taught(samples[:40], COPIES, 0) == teacher.taught(samples[:30], COPIES, 0)


def test_a_network_that_does_not_learn_is_none(
    views: ViewFeatures, samples: list[Sample], tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadying._Lesson, "_loss", lambda lesson, model, *_: next(model.parameters()).sum() * np.nan)
    assert ViewTeacher(views, tmp_path).taught(samples[:30], COPIES, 0) is None
    assert list(tmp_path.iterdir()) == []


def test_each_image_is_read_once(
    views: ViewFeatures, samples: list[Sample], tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    views.features(samples[:30])
    read: list[str] = []
    decode = ViewFeatures.decode

    def noted(self: ViewFeatures, some: list[Sample], size: int) -> npt.NDArray[np.uint8]:
        read.extend(s.id for s in some)
        return decode(self, some, size)

    monkeypatch.setattr(ViewFeatures, "decode", noted)
    made_of(steadied(views, samples[:30], COPIES, tmp_path, seed=0))
    assert read == [s.id for s in samples[:30]]


def test_what_another_network_left_goes_too_but_never_what_was_just_made(
    views: ViewFeatures, samples: list[Sample], tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steadying, "MOST_KEPT", 1)
    other, torn = tmp_path / "0.safetensors", tmp_path / "1.safetensors"
    save_file({"of_another_kind": np.zeros(1)}, other, metadata={"identity": "another"})
    torn.write_bytes(b"torn")
    for file in (other, torn):
        os.utime(file, (time.time() + 1000, time.time() + 1000))
    left = views._folder / "another-32"
    left.mkdir()
    (tmp_path / "2.partial").touch()
    made = made_of(steadied(views, samples[:30], COPIES, tmp_path, seed=0))
    assert list(tmp_path.iterdir()) == [made]
    assert not left.exists()


@pytest.mark.parametrize("room", [32, 5, 2, 1])
def test_a_step_is_taken_in_parts_where_memory_is_small(
    views: ViewFeatures, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    loss = steadying._Lesson._loss

    def in_little_memory(
        lesson: steadying._Lesson, model: torch.nn.Module, number: int, images: Any, *more: Any
    ) -> Any:
        if len(images) > room:
            raise torch.OutOfMemoryError
        return loss(lesson, model, number, images, *more)

    monkeypatch.setattr(steadying._Lesson, "_loss", in_little_memory)
    pixels, wanted = views.pixels(samples[:10]), views.features(samples[:10]).astype(np.float16)
    lesson = steadying._Lesson(views, samples[:10], COPIES, 0, None, None, at_once=32)  # type: ignore[arg-type]
    model = copy.deepcopy(views.backbone.model).requires_grad_(True)
    scale = lesson._scale_of(wanted, 0)
    made = np.stack([invert(image, 0) for image in pixels])
    found = lesson._gradient(model, 0, made, np.arange(10) % 2 == 0, wanted, *scale)
    if room == 1:
        assert found is None
        return
    assert found is not None
    gradient = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    monkeypatch.setattr(steadying._Lesson, "_loss", loss)
    whole = loss(lesson, model, 0, made, np.arange(10) % 2 == 0, wanted, *scale)
    whole.backward()  # type: ignore[no-untyped-call]
    assert float(found) == pytest.approx(float(whole.detach()), rel=1e-4)
    for one, other in zip(gradient, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()) + 1e-6)


def test_no_network_is_taught_unasked_that_is_too_much_work(
    views: ViewFeatures, samples: list[Sample], tmp_path: Path, short: None
) -> None:
    work = steadying.work_of(views)
    assert work * (224 / 64) ** 2 == pytest.approx(0.8e9, rel=0.05), "as published"
    assert ViewTeacher(views, tmp_path, most_work=work / 2).taught(samples[:30], COPIES, 0) is None
    assert ViewTeacher(views, tmp_path, most_work=work).taught(samples[:30], COPIES, 0) is not None
