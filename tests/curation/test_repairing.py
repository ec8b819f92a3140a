"""A weak slice gets a recipe only where the trial proves it; otherwise it is said that more has to be collected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from augment.choose import Ground, Trial, unchanged
from augment.choose import again as again_shown
from augment.recipes import Recipe
from curation.config import SliceSettings
from curation.copied import CopiedFeatures
from curation.kept import Kept
from curation.records import Augmentation, Condition, Estimate, Progress, Sample, Slice
from curation.repairing import Repairer

SIDE = 8
DARK = Condition("brightness", "<", 0.2)
#: More copies than are ever looked at.
MANY = 10_000


class Corner:
    """Features are pixels; what is encoded is seen the same way."""

    def __init__(self, pixels: dict[str, np.ndarray]) -> None:
        self.by_id = pixels
        self.encoded = 0

    def pixels(self, samples: Sequence[Sample]) -> np.ndarray:
        return np.stack([self.by_id[s.id] for s in samples])

    def features(self, samples: Sequence[Sample], progress: Progress | None = None) -> np.ndarray:
        return self.encode(self.pixels(samples))

    def encode(self, images: np.ndarray) -> np.ndarray:
        self.encoded += len(images)
        return images[:, :, :, 0].reshape(len(images), -1).astype(np.float32) / 255


class Set:
    """Bright images whose class is told by which half is lighter; the first forty are dark, their labels chance."""

    def __init__(self, folder: Path, count: int = 240) -> None:
        rng = np.random.default_rng(0)
        self.ids = [f"s{n}" for n in range(count)]
        sides = rng.integers(0, 2, count)
        self.pixels: dict[str, np.ndarray] = {}
        self.samples: dict[str, Sample] = {}
        for n, sample_id in enumerate(self.ids):
            level = np.full((SIDE, SIDE), 100.0) + rng.normal(0, 8, (SIDE, SIDE))
            level[:, : SIDE // 2] += 40 * (1 - sides[n])
            level[:, SIDE // 2 :] += 40 * sides[n]
            image = np.clip(level * (0.1 if n < 40 else 1.0), 0, 255).astype(np.uint8)
            self.pixels[sample_id] = np.dstack([image] * 3)
            Image.fromarray(self.pixels[sample_id]).save(folder / f"{n}.png")
            self.samples[sample_id] = Sample(sample_id, f"{n}.png", folder / f"{n}.png", "train")
        labels = np.where(np.arange(count) < 40, rng.integers(0, 2, count), sides)
        self.labels = [f"c{1 + label}" for label in labels]
        self.table = pd.DataFrame({"brightness": [0.05 if n < 40 else 0.5 for n in range(count)], "saturation": 0.0})
        self.weak = Slice("dark", (DARK,), tuple(self.ids[:40]), 40, 20, 0.5, (0.3, 0.7), 0.0, 0.001, "dark")

    def repairer(self, settings: SliceSettings) -> Repairer:
        return repairer_of(Corner(self.pixels), self.samples, settings)

    def repaired(self, settings: SliceSettings, labels: Sequence[str], folder: Path) -> tuple[Slice, Augmentation]:
        found = self.repairer(settings)(self.weak, self.table, self.ids, labels, folder, MANY)
        return found.slice, found.copies


def repairer_of(seen: Corner, samples: Mapping[str, Sample], settings: SliceSettings) -> Repairer:
    store = CopiedFeatures(seen, seen.encode, Kept())
    return Repairer(store, seen.pixels, lambda chosen, features: np.arange(len(chosen)), samples, settings)


def test_classes_that_must_not_lose_go_by_their_names(
    made: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[str]] = []

    def noted(ground: Ground, made: np.ndarray, sources: np.ndarray, **how: bool) -> Trial:
        told.append(list(ground.others))
        return trial(ground, made, sources, **how)

    trial = Ground.trial
    monkeypatch.setattr(Ground, "trial", noted)
    names = {"c1": "left", "c2": "right"}
    repairer = replace(made.repairer(SliceSettings()), class_name=names.__getitem__)
    repairer(made.weak, made.table, made.ids, made.labels, tmp_path, MANY)
    assert told == [["other images labeled left", "other images labeled right"]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Set:
    return Set(tmp_path_factory.mktemp("images"))


def test_slice_that_no_copy_helps_is_to_be_collected(made: Set, tmp_path: Path) -> None:
    aimed, copies = made.repaired(SliceSettings(), made.labels, tmp_path)
    assert (aimed.repair, aimed.recipe, copies.sample_ids) == ("collect", None, ())
    assert "collect more images of this kind" in aimed.proof
    tried = json.loads((tmp_path / "trial.json").read_text())
    assert (tried["slice"], tried["recipe"], tried["repair"]) == ("dark", "dark", "collect")
    assert tried["gain"]["ci"][0] <= 0 <= tried["gain"]["ci"][1]
    assert (tmp_path / "recipe.png").read_bytes().startswith(b"\x89PNG")


def test_on_trial_the_recipe_is_used_and_marked_as_unproven(made: Set, tmp_path: Path) -> None:
    aimed, copies = made.repaired(SliceSettings(trial=True), made.labels, tmp_path)
    assert (aimed.repair, aimed.recipe) == ("unproven", "dark")
    assert len(copies.sample_ids) > 80
    assert not set(copies.sample_ids) & set(made.weak.sample_ids)
    assert json.loads((tmp_path / "trial.json").read_text())["repair"] == "collect"


def test_a_copy_is_looked_at_once_and_more_are_made_only_where_a_few_help(
    made: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Corner(made.pixels)
    repairer = repairer_of(seen, made.samples, SliceSettings(trial=True))
    monkeypatch.setattr("curation.repairing.FIRST_COPIES", 60)
    tried: list[int] = []
    gains: list[float] = []

    def noted(ground: Ground, made: np.ndarray, sources: np.ndarray, **how: bool) -> Trial:
        tried.append(len(made))
        return trial(ground, made, sources, **how)

    trial = Ground.trial
    monkeypatch.setattr(Ground, "trial", noted)
    monkeypatch.setattr(Ground, "rise", lambda *given: gains[-1])
    for gain, most in ((0.0, 60), (0.1, 400)):
        tried.clear()
        gains.append(gain)
        copies = repairer(made.weak, made.table, made.ids, made.labels, tmp_path, MANY).copies
        assert tried == [most]
    chosen = [made.samples[s] for s in made.ids]
    seen.encoded = 0
    again, rows = repairer.store.copies(chosen, [copies], 0)
    assert seen.encoded == 0
    assert len(again) == len(rows) == 400
    repairer.store.copies(chosen, [copies], 1)
    assert seen.encoded == 400
    for row, features in zip(rows[:5], again[:5], strict=True):  # darkened to a tenth
        assert features.mean() < 0.2 * seen.features([chosen[row]]).mean()
    same, rows = repairer.store.copies(chosen, [again_shown(made.ids[:3], 3)], 0)
    assert rows.tolist() == [0, 1, 2] * 2
    assert np.array_equal(same, seen.features([chosen[row] for row in rows])), "what the trial repeated"


@pytest.mark.parametrize(("rise", "looked_at"), [(-0.1, 50), (0.1, 100)])
def test_no_more_copies_are_looked_at_than_may_be(
    made: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rise: float, looked_at: int
) -> None:
    seen = Corner(made.pixels)
    monkeypatch.setattr(Ground, "rise", lambda *given: rise)
    repairer = repairer_of(seen, made.samples, SliceSettings(trial=True))
    repaired = repairer(made.weak, made.table, made.ids, made.labels, tmp_path, 100)
    samples = len(made.ids)
    assert (repaired.looked_at, seen.encoded - samples) == (looked_at, looked_at)
    assert len(repaired.copies.sample_ids) * repaired.copies.copies == looked_at


@pytest.mark.parametrize("few_help", [True, False, None])
def test_fewer_copies_are_used_where_all_harm_others_and_they_are_proven(
    made: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_help: bool | None
) -> None:
    """``None``: however few they are, they harm."""
    zero, more = Estimate(0.0, (-0.1, 0.1)), Estimate(0.1, (0.0, 0.2))

    def judged(ground: Ground, made: np.ndarray, sources: np.ndarray, *, aligned: bool) -> Trial:
        assert not aligned, "the model knows nothing of it"
        tried.append(len(made))
        if len(made) > 110 or few_help is None:
            return Trial(False, more, zero, zero, "Not kept, it harms.", helps=True, harms=True)
        kept = Trial(True, zero, zero, zero, "Kept.", repair="recipe")
        return kept if few_help else replace(kept, kept=False, repair="collect")

    tried: list[int] = []
    monkeypatch.setattr("curation.repairing.FIRST_COPIES", 60)
    monkeypatch.setattr(Ground, "rise", lambda *given: 0.1)
    monkeypatch.setattr(Ground, "trial", judged)
    aimed, copies = made.repaired(SliceSettings(), made.labels, tmp_path)
    assert tried == [400, 200, 100] if few_help is not None else [400, 200, 100, 60]
    used = (aimed.repair, len(copies.sample_ids) * copies.copies, aimed.proof)
    if few_help:
        assert used == ("recipe", 100, "Kept. 400 copies, in place of 100, harm others.")
    else:
        assert used == ("collect", 0, "Not kept, it harms.")


@pytest.mark.parametrize(
    ("plain", "aligned", "used"),
    [((True, 0.1), (True, 0.2), True), ((True, 0.2), (True, 0.1), False), ((False, 0.2), (True, 0.1), True),
     ((True, 0.1), (False, 0.2), False)],
)  # fmt: skip
def test_copies_are_aligned_where_that_is_kept_and_lets_the_labels_be_believed_more(
    made: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: tuple[bool, float],
    aligned: tuple[bool, float], used: bool,
) -> None:  # fmt: skip
    def judged(ground: Ground, made: np.ndarray, sources: np.ndarray, **how: bool) -> Trial:
        kept, belief = aligned if how["aligned"] else plain
        repair = "recipe" if kept else "collect"
        return Trial(kept, zero, zero, zero, "Tried.", repair=repair, belief=Estimate(belief), aligned=how["aligned"])

    zero = Estimate(0.0, (-0.1, 0.1))
    monkeypatch.setattr(Ground, "rise", lambda *given: 0.1)
    monkeypatch.setattr(Ground, "trial", judged)
    repairer = replace(made.repairer(SliceSettings()), aligns=lambda folder: folder == tmp_path)
    found = repairer(made.weak, made.table, made.ids, made.labels, tmp_path, MANY)
    assert found.slice.repair == "recipe"
    assert found.copies.aligned is used
    assert json.loads((tmp_path / "trial.json").read_text())["aligned"] is used


class Lessons:
    """Notes who would teach."""

    def __init__(self, file: Path | None, seen: Corner) -> None:
        self.file = file
        self.seen = seen
        self.teachers: list[str] = []

    def taught(
        self, samples: Sequence[Sample], copies: Augmentation, seed: int, progress: Progress | None = None
    ) -> Path | None:
        assert copies.name == "dark"
        self.teachers = [s.id for s in samples]
        return self.file

    def seen_by(self, file: Path) -> Corner:
        assert file == self.file
        return self.seen


@pytest.mark.parametrize(
    ("plain", "taught", "used"),
    [((True, 0.1), (True, 0.2), True), ((True, 0.2), (True, 0.1), False), ((False, 0.2), (True, 0.1), True),
     ((True, 0.1), (False, 0.2), False), ((True, 0.1), None, False)],
)  # fmt: skip
def test_the_network_is_taught_where_that_is_kept_and_lets_the_labels_be_believed_more(
    made: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: tuple[bool, float],
    taught: tuple[bool, float] | None, used: bool,
) -> None:  # fmt: skip
    def tried(figures: tuple[bool, float], words: str) -> Trial:
        kept, belief = figures
        repair = "recipe" if kept else "collect"
        rise = Estimate(belief, (belief / 2, 2 * belief))
        return Trial(kept, zero, zero, zero, words, repair=repair, belief=rise, taught=words == "Taught.")

    def judged(ground: Ground, seen: np.ndarray, copies: int) -> Trial:
        assert taught is not None
        assert np.array_equal(seen, lessons.seen.features([made.samples[s] for s in made.ids]))
        assert copies == 400
        return tried(taught, "Taught.")

    zero = Estimate(0.0, (-0.1, 0.1))
    monkeypatch.setattr(Ground, "rise", lambda *given: 0.1)
    monkeypatch.setattr(Ground, "trial", lambda *given, **how: tried(plain, "Tried."))
    monkeypatch.setattr(Ground, "trial_of", judged)
    lessons = Lessons(tmp_path / "network" if taught else None, Corner({s: 255 - p for s, p in made.pixels.items()}))
    more = [Sample(split, f"{split}.png", tmp_path / f"{split}.png", split) for split in ("pool", "holdout")]
    others = {s.id: s for s in more}
    repairer = replace(
        made.repairer(SliceSettings()), aligns=lambda folder: True, teacher=lessons, samples=made.samples | others
    )
    found = repairer(made.weak, made.table, made.ids, made.labels, tmp_path, MANY, more[:1])
    assert found.slice.repair == "recipe"
    assert found.slice.proof == ("Taught." if used else "Tried.")
    assert found.copies.network == (tmp_path / "network" if used else None)
    assert json.loads((tmp_path / "trial.json").read_text())["taught"] is used
    assert sorted(lessons.teachers) == sorted([*made.ids[40:], "pool"]), "not the slice, nor what else is known"
    assert lessons.teachers[-1] == "pool", "first those that are trained on"
    assert lessons.teachers[:-1] != made.ids[40:], "in an order that says nothing"


@pytest.mark.parametrize(
    "case", ["another model", "copies gain nothing", "a rare slice", "copies gain next to nothing", "by chance"]
)
def test_no_network_is_taught_where_that_is_of_no_use(
    made: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    lessons, zero = Lessons(None, Corner(made.pixels)), Estimate(0.0, (-0.1, 0.1))
    rise = {"copies gain next to nothing": Estimate(0.009, (0.008, 0.01)), "by chance": Estimate(0.1, (-0.01, 0.2))}
    tried = Trial(True, zero, zero, zero, "Tried.", repair="recipe", belief=rise.get(case, Estimate(0.1, (0.05, 0.2))))
    monkeypatch.setattr(Ground, "trial", lambda *given, **how: tried)
    monkeypatch.setattr(Ground, "rise", lambda *given: 0.0 if case == "copies gain nothing" else 0.1)
    repairer = replace(made.repairer(SliceSettings()), aligns=lambda folder: case != "another model", teacher=lessons)
    table = made.table.assign(brightness=0.5) if case == "a rare slice" else made.table
    weak = replace(made.weak, weakness="rare", conditions=()) if case == "a rare slice" else made.weak
    repairer(weak, table, made.ids, made.labels, tmp_path, 100)
    assert lessons.teachers == []


def test_slice_that_is_merely_rare_is_shown_more_often_or_helped_by_its_recipe(made: Set, tmp_path: Path) -> None:
    """In the slice the lighter half means the other class: its own images teach that, darkened others the contrary."""
    other = {"c1": "c2", "c2": "c1"}
    truth = ["c1" if made.pixels[s][:, :4].mean() > made.pixels[s][:, 4:].mean() else "c2" for s in made.ids]
    labels = [other[label] if n < 40 else label for n, label in enumerate(truth)]
    settings = replace(SliceSettings(), copies=1)
    aimed, copies = made.repaired(settings, labels, tmp_path)
    assert aimed.repair != "recipe"
    assert not set(copies.sample_ids) - set(made.weak.sample_ids)


def soft_plans(soften: Callable[[Image.Image], Image.Image], side: int, folder: Path) -> dict[str, Recipe]:
    """The recipes planned for grainy images of which a quarter is softened, by weakness.

    Sharpness in the table is of another size, as for a large image. What is copied is not soft already.
    """
    rng = np.random.default_rng(0)
    count, soft = 80, 20
    made: dict[str, np.ndarray] = {}
    samples: dict[str, Sample] = {}
    for n in range(count):
        grain = Image.fromarray(rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)).resize((side, side))
        made[f"s{n}"] = np.asarray(soften(grain) if n < soft else grain)
        samples[f"s{n}"] = Sample(f"s{n}", f"{n}.png", folder / f"{n}.png", "train")
    ids = list(made)
    repairer = repairer_of(Corner(made), samples, SliceSettings())
    table = pd.DataFrame({"sharpness": [0.65 if n < soft else 0.7 for n in range(count)], "saturation": 0.3})
    less = Condition("sharpness", "<", 0.66)
    weak = Slice("soft", (less,), tuple(ids[:soft]), soft, 10, 0.5, (0.3, 0.7), 0.0, 0.001, "blurred")
    plans = repairer.plans(weak, table, ids, ["c1"] * count)
    assert all(set(copies.sample_ids) <= set(ids[soft:]) for _, copies in plans)
    return {recipe.weakness: recipe for recipe, _ in plans}


@pytest.mark.parametrize(("side", "pixels"), [(64, 2.0), (112, 4.0), (160, 8.0)])
def test_copies_are_as_blurred_as_the_slice_whatever_the_size_and_however_sharpness_was_measured(
    tmp_path: Path, side: int, pixels: float
) -> None:
    plans = soft_plans(lambda image: image.filter(ImageFilter.GaussianBlur(pixels)), side, tmp_path)
    least, most = plans["blurred"].steps[0].parameters["sigma_limit"]
    assert 0.75 * pixels <= least <= most <= 1.3 * pixels


@pytest.mark.parametrize(("side", "by"), [(96, 6), (160, 8)])
def test_copies_are_as_coarse_as_the_slice(tmp_path: Path, side: int, by: int) -> None:
    """That it is coarse can't be told from that it is blurred, so a recipe against either is planned."""

    def coarse(image: Image.Image) -> Image.Image:
        few = image.resize((side // by, side // by), Image.Resampling.BOX)
        return few.resize((side, side), Image.Resampling.BILINEAR)

    plans = soft_plans(coarse, side, tmp_path)
    assert set(plans) == {"blurred", "low_resolution"}
    least, most = plans["low_resolution"].steps[0].parameters["scale_range"]
    assert 0.75 / by <= least <= most <= 1.3 / by


class Counted(tuple[str, ...]):
    """Members of a slice that count how often all of them are gone through."""

    through = 0

    def __iter__(self) -> Iterator[str]:
        self.through += 1
        return super().__iter__()


def test_members_of_a_soft_slice_are_gone_through_once_however_many_images_there_are(made: Set) -> None:
    members = Counted(made.ids[:40])
    weak = replace(made.weak, weakness="blurred", sample_ids=members)
    made.repairer(SliceSettings())._softness(weak, made.table, made.ids)
    assert members.through == 1


def test_two_networks_do_not_take_each_others_copies(made: Set) -> None:
    """A project that judges by one look and trains on several keeps both in one place."""
    kept, seen = Kept(), Corner(made.pixels)
    one = CopiedFeatures(seen, seen.encode, kept)
    more = CopiedFeatures(seen, lambda images: np.tile(seen.encode(images), 2), kept, (SIDE * SIDE, SIDE * SIDE))
    chosen = [made.samples[s] for s in made.ids[:3]]
    again = Augmentation("again", tuple(made.ids[:3]), 1, unchanged)
    assert [len(source.copies(chosen, [again], 0)[0][0]) for source in (one, more)] == [SIDE * SIDE, 2 * SIDE * SIDE]
