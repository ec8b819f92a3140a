"""The loop: stages run once, go on where they stopped, and never look at the holdout's labels."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests_loop import House, merge_third_into_right, ran, with_third_class

from augment.choose import unchanged
from curation import streaming
from curation.account import costs_of
from curation.config import CostSettings
from curation.gain import compare
from curation.judging import joint_groups, trainable, unlabeled_pool
from curation.parts import Repaired, Scored
from curation.records import (
    AMBIGUOUS,
    SKIPPED,
    WITHDRAWN,
    Augmentation,
    Condition,
    CurrentLabel,
    Decision,
    Issue,
    Sample,
    Slice,
    Verdict,
)
from curation.runs import finished, read_json, write_json
from curation.tables import read_frame, slices_from_frame, slices_to_frame, write_frame
from curation.tracking import start_collecting


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A house in which the baseline and one iteration have run."""
    return ran(tmp_path_factory.mktemp("done"))


def test_an_iteration_finds_and_repairs_flipped_labels(done: House) -> None:
    labels = done.ledger.labels()
    wrong = [s.id for s in done.samples if s.split == "train" and labels[s.id].class_id != done.truth[s.id]]
    assert len(wrong) <= 2
    assert done.ledger.iterations()[0].state == "done"


def test_the_queue_holds_no_holdout_row_and_no_more_than_the_budget(done: House) -> None:
    queue = done.ledger.queue(1)
    split = {s.id: s.split for s in done.samples}
    assert len(queue) == 20
    assert "holdout" not in {split[e.sample_id] for e in queue}
    assert {"shown", "control"} <= {e.mode for e in queue}


def test_running_a_finished_iteration_again_changes_nothing(done: House) -> None:
    before = (done.ledger.label_events(), done.ledger.verdicts(every=True), len(done.recorder.accounts))
    done.loop.baseline()
    assert done.loop.advance(1, lambda: done.people) == "done"
    assert (done.ledger.label_events(), done.ledger.verdicts(every=True), len(done.recorder.accounts)) == before


def test_the_next_iteration_asks_for_no_image_twice(done: House) -> None:
    done.loop.advance(2, lambda: done.people)
    contested = {d["sample_id"] for d in finished_decisions(done, 1) if d["outcome"] == "contested"}
    first = {e.sample_id for e in done.ledger.queue(1)} - contested
    assert not first & {e.sample_id for e in done.ledger.queue(2)}


def finished_decisions(house: House, number: int) -> list[dict[str, str]]:
    manifest = finished(house.paths.iteration(number), "review")
    assert manifest is not None
    return list(manifest["decisions"])


def test_permuting_the_holdouts_labels_changes_neither_queue_nor_recipes_nor_weights(tmp_path: Path) -> None:
    results = []
    for seed in (None, 1):
        house = House(tmp_path / str(seed), holdout_seed=seed)
        house.loop.baseline()
        house.loop.advance(1, lambda people=house.people: people)
        folder = house.paths.iteration(1)
        queue = [(e.key, e.sample_id, e.position, e.reason) for e in house.ledger.queue(1)]
        slices = [(s.name, s.sample_ids, s.recipe) for s in house.loop.slices(1)]
        results.append((queue, slices, (folder / "model.safetensors").read_bytes()))
    assert results[0] == results[1]


def test_no_pool_image_of_a_group_in_the_holdout_is_asked_about_or_trained_on() -> None:
    """Projects may have some: a group was divided when it was brought in."""
    splits, groups = ("train", "pool", "pool", "pool", "holdout"), ("a", "b", "a", None, "b")
    made = [
        Sample(str(n), f"{n}.png", Path(f"{n}.png"), split, group=group)  # type: ignore[arg-type]
        for n, (split, group) in enumerate(zip(splits, groups, strict=True))
    ]
    labels = {s.id: CurrentLabel(s.id, "c1", False, 1) for s in made}
    assert [s.id for s in trainable(made, labels)] == ["0", "2", "3"]
    assert [s.id for s in unlabeled_pool(made, {})] == ["2", "3"]


def test_unlabeled_images_that_came_after_the_last_training_are_asked_about(
    done: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a slice is collected for is asked about first; the others count as the usual one."""
    labels = done.ledger.labels(as_of=0)
    pool = [s.id for s in done.samples if s.split == "pool"]
    new = [replace(done.samples[-1], id=name) for name in ("new", "wanted")]
    monkeypatch.setattr(done.loop, "_wanted_pool", lambda number, labels: ["wanted"])
    monkeypatch.setattr(done.loop, "samples", [*done.samples, *new])
    found = done.loop._uncertain_pool(1, labels)
    assert next(s for s, _ in found) == "wanted"
    assert {s for s, _ in found} == {*pool, "new", "wanted"}
    assert dict(found)["new"] == pytest.approx(np.median([dict(found)[s] for s in pool]))
    monkeypatch.setattr(done.loop, "samples", new)
    assert [s for s, _ in done.loop._uncertain_pool(1, labels)] == ["wanted", "new"]


def test_shot_list_names_no_pool_image_that_people_have_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are ambiguous stay without a label; in their places others are asked about."""
    house = House(tmp_path)
    train = tuple(s.id for s in house.samples if s.split == "train")
    weak = Slice("all", (Condition("brightness", ">=", 0.0),), train, 80, 40, 0.5, (0.3, 0.7), 0.1, 0.01)
    monkeypatch.setattr(house.loop, "slices", lambda number: [start_collecting(weak)])
    (shot,) = house.loop.shots(1, house.ledger.labels())
    first, *others = shot.pool
    assert len(others) == 9
    at = datetime.now(UTC)
    house.ledger.add_verdicts([Verdict(first, AMBIGUOUS, "ann", at, "v1", "ls:1:1", "blind", 1)])
    (shot,) = house.loop.shots(1, house.ledger.labels())
    assert list(shot.pool) == others


def test_pool_image_of_a_slice_comes_first_where_all_others_have_values_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no image of the pool has is not asked of it: then all come by looks."""
    house = House(tmp_path)
    train = tuple(s.id for s in house.samples if s.split == "train")
    conditions = (Condition("camera", "=", "night"), Condition("brightness", ">=", 0.0))
    weak = Slice("night", conditions, train[:40], 40, 20, 0.5, (0.3, 0.7), 0.1, 0.01)
    monkeypatch.setattr(house.loop, "slices", lambda number: [start_collecting(weak)])
    (by_looks,) = house.loop.shots(1, house.ledger.labels())
    *others, last = by_looks.pool
    assert len(others) == 9
    named = [replace(s, metadata={"camera": "night" if s.id == last else s.path}) for s in house.samples]
    monkeypatch.setattr(house.loop, "samples", named)
    (shot,) = house.loop.shots(1, house.ledger.labels())
    assert list(shot.pool) == [last, *others]


def test_slice_of_a_class_goes_on_under_the_name_that_the_class_has_now(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.loop.baseline()
    house.loop.prepare(1)
    labels = house.ledger.labels()
    own = tuple(s.id for s in trainable(house.samples, labels) if labels[s.id].class_id == "c1")
    weak = Slice("class = left", (Condition("class", "=", "c1"),), own, len(own), 20, 0.5, (0.3, 0.7), 0.1, 0.01)
    write_frame(house.paths.iteration(1) / "slices.parquet", slices_to_frame([weak]))
    house.ledger.rename_class("c1", "port", who="eve")
    scored = Scored(house.loop.predictions(1), {}, (), ())
    (kept,) = house.loop._remember(2, scored, labels, house.loop.parts.measure(house.samples, None))
    assert kept.name == "class = port"


def test_trials_of_an_iteration_share_the_copies_that_they_may_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path)
    ids = [s.id for s in house.samples if s.split == "train"]
    weak = [
        Slice(f"slice {n}", (), tuple(ids[10 * n :][:10]), 10, 5, 0.5, (0.2, 0.8), 0.0, 0.01, "dark") for n in range(3)
    ]
    tried: list[tuple[str, int]] = []

    def nothing_helps(weak, properties: pd.DataFrame, ids, labels, folder: Path, most: int, unlabeled):  # type: ignore[no-untyped-def]
        tried.append((weak.name, most))
        assert [s.split for s in unlabeled] == ["pool"] * 10
        return Repaired(weak, Augmentation("dark", (), 1, unchanged), 110)

    loop = house.loop
    loop.parts = replace(loop.parts, repair=nothing_helps)
    monkeypatch.setattr(loop, "slices", lambda number: list(weak))
    monkeypatch.setattr(loop, "looks", lambda number: None)
    monkeypatch.setattr(loop, "issues", lambda number: suspected)
    house.paths.iteration(1).mkdir(parents=True)
    suspected: list[Issue] = []
    assert loop._augmentations(house.paths.iteration(1), 1, house.ledger.labels()) == []
    assert tried == [("slice 0", 300), ("slice 1", 190)], "80 are too few to tell anything"
    tried.clear()
    suspected = [Issue(sample_id, "label", 0.1, "unlike its class") for sample_id in weak[0].sample_ids[:4]]
    assert loop._augmentations(house.paths.iteration(1), 1, house.ledger.labels()) == []
    assert tried == [("slice 1", 300), ("slice 2", 190)], "labels that are flagged are looked at first"
    kept = slices_from_frame(read_frame(house.paths.iteration(1) / "slices.parquet"))
    assert [s.repair for s in kept] == ["review", "", ""]
    at = datetime.now(UTC)
    for answer, first in ((SKIPPED, "slice 1"), ("c1", "slice 0")):
        tried.clear()
        sample_id = weak[0].sample_ids[0]
        house.ledger.add_verdicts([Verdict(sample_id, answer, "ann", at, answer, f"ls:x:{answer}", "blind", 1)])
        loop._augmentations(house.paths.iteration(1), 1, house.ledger.labels())
        assert tried[0][0] == first, "who skips an image has not judged it"


def test_reopened_slice_that_nothing_helps_again_is_collected_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on where it was: what it was collected for before, and has not arrived, is asked for."""
    house = House(tmp_path)
    ids = tuple(s.id for s in house.samples if s.split == "train")[:10]
    before = Slice("dim", (), ids, 10, 5, 0.5, (0.2, 0.8), 0.0, 0.01, "dark", status="open", wanted=30, began=8)

    def nothing_helps(weak, properties: pd.DataFrame, ids, labels, folder: Path, most: int, unlabeled):  # type: ignore[no-untyped-def]
        return Repaired(replace(weak, repair="collect"), Augmentation("dark", (), 1, unchanged), 110)

    house.loop.parts = replace(house.loop.parts, repair=nothing_helps)
    monkeypatch.setattr(house.loop, "slices", lambda number: [before])
    monkeypatch.setattr(house.loop, "looks", lambda number: None)
    monkeypatch.setattr(house.loop, "issues", lambda number: [])
    house.paths.iteration(1).mkdir(parents=True)
    assert house.loop._augmentations(house.paths.iteration(1), 1, house.ledger.labels()) == []
    (kept,) = slices_from_frame(read_frame(house.paths.iteration(1) / "slices.parquet"))
    assert (kept.status, kept.wanted, kept.began) == ("collecting", 30, 8)


def test_trials_that_were_stopped_in_training_are_made_again_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices are tried as they were found, or as people have marked them since."""
    house = House(tmp_path)
    ids = [s.id for s in house.samples if s.split == "train"]
    weak = [
        Slice(f"slice {n}", (), tuple(ids[10 * n :][:10]), 10, 5, 0.5, (0.2, 0.8), 0.0, 0.01, "dark") for n in range(6)
    ]
    tried: list[str] = []

    def helps_the_last(weak, properties: pd.DataFrame, ids, labels, folder: Path, most: int, unlabeled):  # type: ignore[no-untyped-def]
        tried.append(weak.name)
        helps = weak.name == "slice 4"
        repaired = replace(weak, repair="recipe" if helps else "collect")
        return Repaired(repaired, Augmentation("dark", weak.sample_ids if helps else (), 1, unchanged), 50)

    loop = house.loop
    loop.parts = replace(loop.parts, repair=helps_the_last)
    monkeypatch.setattr(loop, "issues", lambda number: [])
    monkeypatch.setattr(loop, "_remember", lambda *given: weak)
    loop.baseline()
    loop.prepare(1)
    folder, labels = house.paths.iteration(1), house.ledger.labels()
    assert loop._augmentations(folder, 1, labels) == []
    assert tried == ["slice 0", "slice 1", "slice 2"]
    ended = (folder / "slices.parquet").read_bytes()
    assert loop._augmentations(folder, 1, labels) == []
    assert tried[3:] == tried[:3]
    assert (folder / "slices.parquet").read_bytes() == ended
    assert [s.status for s in loop.slices(1)] == ["collecting"] * 3 + ["open"] * 3
    for name in ("scored_slices", "slices"):
        file = folder / f"{name}.parquet"
        kept = slices_from_frame(read_frame(file))
        write_frame(file, slices_to_frame([replace(s, status="accepted") if s.name == "slice 1" else s for s in kept]))
    tried.clear()
    loop._augmentations(folder, 1, labels)
    assert tried == ["slice 0", "slice 2", "slice 3"]
    assert [s.status for s in loop.slices(1)][:2] == ["collecting", "accepted"]


def test_an_iteration_waits_for_people_and_goes_on_when_they_have_answered(tmp_path: Path) -> None:
    house = House(tmp_path, silent=3)
    house.loop.baseline()
    assert house.loop.advance(1, lambda: house.people) == "waiting"
    assert house.ledger.iterations()[0].state == "waiting"
    assert len(house.ledger.verdicts()) == 17
    house.people.silent = 0
    assert house.loop.advance(1, lambda: house.people) == "done"
    assert len(house.ledger.verdicts()) == 20
    assert len(house.people.sent) == 20


def test_a_batch_can_be_closed_with_the_answers_that_are_there(tmp_path: Path) -> None:
    house = House(tmp_path, silent=15)
    house.loop.baseline()
    assert house.loop.advance(1, lambda: house.people, close_batch=True) == "done"
    assert house.recorder.accounts[-1].review["reviewed"] == 5


def test_a_failure_is_recorded_and_the_next_run_goes_on_at_that_stage(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.loop.baseline()

    class Broken:
        def train(self, *given: object, **named: object) -> None:
            raise RuntimeError("power cut")

    whole = house.loop.parts
    house.loop.parts = replace(whole, trainer=Broken())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="power cut"):
        house.loop.advance(1, lambda: house.people)
    assert house.ledger.iterations()[0].state == "failed"
    events = house.ledger.label_events()
    house.loop.parts = whole
    assert house.loop.advance(1, lambda: house.people) == "done"
    assert house.ledger.label_events() == events


@pytest.mark.parametrize("lost", ["review.json", "train.json", "report.json"])
def test_a_stage_whose_manifest_is_missing_is_made_again_to_the_same_end(tmp_path: Path, lost: str) -> None:
    house = House(tmp_path)
    house.loop.baseline()
    house.loop.advance(1, lambda: house.people)
    folder, events = house.paths.iteration(1), house.ledger.label_events()
    queue, weights = house.ledger.queue(1), (folder / "model.safetensors").read_bytes()
    (folder / lost).unlink()
    house.loop.advance(1, lambda: house.people)
    assert house.ledger.label_events() == events
    assert house.ledger.queue(1) == queue
    assert (folder / "model.safetensors").read_bytes() == weights


def test_a_review_that_was_stopped_after_its_decisions_notes_the_same_decisions(tmp_path: Path) -> None:
    """What changed is told by the labels that people were asked about, not by what they have become."""
    house = House(tmp_path)
    house.loop.baseline()
    house.loop.advance(1, lambda: house.people)
    manifest = house.paths.iteration(1) / "review.json"
    noted = read_json(manifest)
    manifest.unlink()
    house.loop.advance(1, lambda: house.people)
    again = read_json(manifest)
    assert "change" in {d["outcome"] for d in noted["decisions"]}
    assert {k: v for k, v in again.items() if k != "ledger"} == {k: v for k, v in noted.items() if k != "ledger"}


def test_an_excluded_image_is_not_trained_on(done: House, tmp_path: Path) -> None:
    house = House(tmp_path)
    house.ledger.decide([Decision(house.samples[1].id, "exclude", None, 1.0, (), "bad image")], who="eve", iteration=0)
    house.loop.baseline()
    assert (finished(house.paths.iteration(0), "train") or {})["trained_on"] == 79


def test_many_labels_are_judged_a_block_at_a_time_and_as_well(done: House, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = done.ledger.labels(as_of=0)
    rows = trainable(done.loop.samples, labels)
    properties = done.loop.parts.measure(rows, None)
    wrong = {s.id for s in rows if labels[s.id].class_id != done.truth[s.id]}
    in_memory = done.loop.judging.score(rows, labels, properties, find_slices=False)
    monkeypatch.setattr(streaming, "FROM", 10)
    in_blocks = done.loop.judging.score(rows, labels, properties, find_slices=False)
    assert not np.array_equal(in_blocks.predictions.probabilities, in_memory.predictions.probabilities)
    for scored in (in_memory, in_blocks):
        worst = sorted(scored.quality, key=scored.quality.__getitem__)[: len(wrong)]
        assert len(wrong & set(worst)) >= len(wrong) - 1 > 0


def test_a_holdout_image_that_is_in_train_too_is_among_the_issues(done: House) -> None:
    train, held = ([s for s in done.samples if s.split == split] for split in ("train", "holdout"))
    assert done.loop.judging.leaks(train, held) == []
    (leak,) = done.loop.judging.leaks(train, [*held, replace(train[3], id="twin", split="holdout")])
    assert (leak.kind, leak.sample_id, leak.related) == ("leak", "twin", (train[3].id,))


def test_groups_join_users_groups_and_near_duplicates() -> None:
    samples = [
        Sample(str(n), str(n), Path(str(n)), "train", group=g) for n, g in enumerate([None, "x", "x", None, None])
    ]
    groups = joint_groups(samples, np.array([7, 7, 8, 9, 9]))
    assert groups.tolist() == [0, 0, 0, 1, 1]


def test_an_answer_that_comes_late_counts_and_one_that_is_withdrawn_counts_no_more(tmp_path: Path) -> None:
    house = House(tmp_path, silent=3)
    house.loop.baseline()
    assert house.loop.advance(1, lambda: house.people, close_batch=True) == "done"
    queue = house.ledger.queue(1)
    late = queue[0]
    assert late.sample_id not in {v.sample_id for v in house.ledger.verdicts()}
    other = {"c1": "c2", "c2": "c1"}[house.ledger.labels()[late.sample_id].class_id or ""]
    taken_back = next(e for e in house.ledger.label_events() if e.kind == "decision")
    said = {v.id: v for v in house.ledger.verdicts()}[taken_back.cites[0]]
    one = Verdict(late.sample_id, other, "zoe", said.at, late.key, "late", late.mode, 1, 90.0)
    gone = replace(said, answer=WITHDRAWN, at=said.at + timedelta(seconds=1), id=0)
    house.ledger.add_verdicts([one, gone])
    house.people.silent = 0
    house.people.collect = lambda entries, known=(): []  # type: ignore[method-assign]
    assert house.loop.advance(2, lambda: house.people, close_batch=True) == "done"
    labels = house.ledger.labels()
    assert labels[late.sample_id].class_id == other
    assert labels[taken_back.sample_id].class_id == taken_back.old
    assert house.ledger.label_events(taken_back.sample_id)[-1].kind == "undo"
    noted = finished(house.paths.iteration(2), "review") or {}
    assert (noted["reviewed"], noted["opinions"], noted["seconds"], noted["changed"]) == (1, 1, 90.0, 1)
    assert house.loop._minutes(2, set())["relabeling"] == 1.5
    assert house.loop._came_late(2, house.ledger.verdicts())
    assert house.loop._came_late(3, house.ledger.verdicts()) == [], "what was counted once is not counted again"


def test_labels_may_be_judged_by_models_trained_without_each_fold(tmp_path: Path) -> None:
    house = House(tmp_path)
    detection = replace(house.loop.settings.detection, scorer="training")
    house.loop.settings = replace(house.loop.settings, detection=detection)
    labels = house.ledger.labels()
    rows = [s for s in house.samples if s.split == "train"]
    scored = house.loop.judging.score(rows, labels, house.loop.parts.measure(rows, None), find_slices=False)
    wrong = {s.id for s in rows if labels[s.id].class_id != house.truth[s.id]}
    worst = sorted(scored.quality, key=lambda s: scored.quality[s])[: len(wrong)]
    assert len(wrong & set(worst)) >= len(wrong) - 2
    assert set(scored.predictions.folds.tolist()) == set(range(5))


def test_folds_trained_on_other_weights_are_not_taken(tmp_path: Path) -> None:
    """The file of weights is another one under the same name, so that only what the network is tells them apart."""
    house = House(tmp_path)
    detection = replace(house.loop.settings.detection, scorer="training")
    house.loop.settings = replace(house.loop.settings, detection=detection)
    rows = [s for s in house.samples if s.split == "train"]
    measured = house.loop.parts.measure(rows, None)
    for identity, folders in (("one", 1), ("one", 1), ("other", 2)):
        house.loop.parts = replace(house.loop.parts, identity=identity)
        house.loop.judging.score(rows, house.ledger.labels(), measured, find_slices=False)
        assert len(list((house.paths.cache / "folds").iterdir())) == folders


def test_an_adopted_answer_that_gave_the_label_is_no_review_of_it(tmp_path: Path) -> None:
    house = House(tmp_path)
    first, second = (s.id for s in house.samples[:2])
    given = house.ledger.labels()
    other = {"c1": "c2", "c2": "c1"}
    at = datetime(2026, 1, 1, tzinfo=UTC)
    answers = {first: given[first].class_id or "", second: other[given[second].class_id or ""]}
    house.ledger.add_verdicts(
        [Verdict(s, a, "ann", at, f"adopted:{s}", f"ls:x:annotation:{s}", "blind", 0) for s, a in answers.items()]
    )
    assert house.loop._asked() == {first: 0, second: 1}
    rows = [first, second]
    assert house.loop.judging.settled(rows, [answers[first], answers[second]]).tolist() == [False, True]


def test_a_label_is_settled_where_more_people_name_it_than_anything_else(tmp_path: Path) -> None:
    house = House(tmp_path)
    rows = [s.id for s in house.samples[:4]]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    said = [("c1",), ("c1", "c2"), ("c1", "c2", "c1"), (SKIPPED, "c1")]
    house.ledger.add_verdicts(
        [
            Verdict(s, a, f"person {n}", at, f"{s}:{n}", f"ls:x:annotation:{s}:{n}", "blind", 0)
            for s, answers in zip(rows, said, strict=True)
            for n, a in enumerate(answers)
        ]
    )
    assert house.loop.judging.settled(rows, ["c1"] * 4).tolist() == [True, False, True, True]
    assert not house.loop.judging.settled(rows, ["c2"] * 4).any()
    for person, answer in (("rev", "c2"), ("rev", WITHDRAWN)):  # outranks two of three, until it is taken back
        at += timedelta(seconds=1)
        house.ledger.add_verdicts([Verdict(rows[2], answer, person, at, "review:1", "review:1", "review", 0)])
        named = house.loop.judging.settled(rows, ["c1", "c1", "c2", "c1"]).tolist()
        assert named == [True, False, answer == "c2", True]


def test_a_class_that_is_added_while_tasks_are_open_can_be_chosen_and_the_next_iterations_go_on(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.loop.baseline()
    house.loop.prepare(1)
    house.ledger.add_classes(["third"], who="ann")
    shown = {e.key for e in house.ledger.queue(1) if e.mode == "shown"}
    chosen = set(sorted(shown)[:2])
    collect = house.people.collect

    def some_say_third(entries: Any, known: Any = ()) -> list[Verdict]:
        return [replace(v, answer="c3") if v.key in chosen else v for v in collect(entries, known)]

    house.people.collect = some_say_third  # type: ignore[method-assign]
    for number in (1, 2):
        assert house.loop.advance(number, lambda: house.people) == "done"
        account = house.recorder.accounts[-1]
        truth = {s.id: account.after[s.id].class_id or "" for s in house.samples if s.split == "holdout"}
        assert account.model_before is not None
        before, after = (m.take(list(truth)) for m in (account.model_before, account.model_after))
        assert compare(before, after, truth, seed=0).accuracy.ci is not None
    third = {e.sample_id for e in house.ledger.queue(1) if e.key in chosen}
    outcomes = {d["outcome"] for d in finished_decisions(house, 1) if d["sample_id"] in third}
    assert outcomes
    assert outcomes <= {"change", "contested"}
    assert house.loop.predictions(1).class_ids == ("c1", "c2", "c3")


def test_classes_merged_while_a_batch_waits_are_no_work_of_the_batch(tmp_path: Path) -> None:
    house = House(tmp_path)
    third = with_third_class(house)
    house.loop.baseline()
    house.loop.prepare(1)
    house.ledger.set_state(1, "waiting")
    asked = {e.sample_id for e in house.ledger.queue(1)}
    merge_third_into_right(house, third, 1)
    assert house.loop.advance(1, lambda: house.people) == "done"
    review = finished(house.paths.iteration(1), "review")
    assert review is not None
    assert review["changed"] == len([e for e in house.loop._consensus_events(1) if e.old and not e.excluded])
    assert set(third) & asked
    said = house.loop.said(house.loop.predictions(1))
    agree = [s in third for s in said.sample_ids]
    assert any(agree)
    assert not said.answers.other[agree].any()  # "right" is what they are now: nobody contradicts that


def test_merging_classes_is_no_gain_of_a_model_and_no_change_of_a_label(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.ledger.add_classes(["third"], who="ann")
    third = [s.id for s in house.samples if s.split != "pool" and house.truth[s.id] == "c2"][::2]
    house.ledger.decide([Decision(s, "change", "c3", 1.0, (), "set up") for s in third], who="import", iteration=0)
    house.truth.update(dict.fromkeys(third, "c3"))
    house.loop.baseline()
    assert house.loop.advance(1, lambda: house.people) == "done"
    merge_third_into_right(house, [s for s, now in house.ledger.labels().items() if now.class_id == "c3"], 1)
    house.truth.update(dict.fromkeys(third, "c2"))
    assert house.loop.advance(2, lambda: house.people) == "done"
    for number in (1, 2):
        account = house.loop.account(number)
        truth = {s.id: account.after[s.id].class_id or "" for s in house.samples if s.split == "holdout"}
        assert "c3" not in truth.values()
        assert account.model_before is not None
        before, after = (m.take(list(truth)) for m in (account.model_before, account.model_after))
        change = compare(before, after, truth, seed=0).accuracy
        assert change.ci is not None
        assert change.ci[0] < 0 < change.ci[1], "halves of one class are told apart by chance"
        figures = costs_of(account, after, before, truth, CostSettings("third", miss=50.0))
        assert figures is not None
        assert figures.escapes is not None, "what was 'third' is 'right' now"
        moved = [s for s, now in account.after.items() if s in account.before and now != account.before[s]]
        known = {e.sample_id for e in house.loop._consensus_events(number)}
        assert {s for s in moved if account.after[s].class_id != account.before[s].class_id} <= known
    assert house.loop.predictions(1).probabilities[:, 2].max() == 0


def test_withdrawn_answers_take_every_decision_on_them_with_them_and_no_merged_class_comes_back(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.ledger.add_classes(["third"], who="ann")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    train = [s.id for s in house.samples if s.split == "train"]
    given = house.ledger.labels()
    one = next(s for s in train if given[s].class_id == "c1")
    other = next(s for s in train if given[s].class_id == "c2")
    house.ledger.decide([Decision(other, "change", "c3", 1.0, (), "set up")], who="import", iteration=0)

    def say(sample: str, answer: str, person: str, hours: int) -> None:
        source = f"ls:{person}:{sample}"
        when = at + timedelta(hours=hours)
        house.ledger.add_verdicts([Verdict(sample, answer, person, when, f"k:{source}", source, "blind", 1)])

    def decide(iteration: int) -> None:
        decisions = house.loop._decisions(house.ledger.verdicts(), house.ledger.labels(), None)
        house.ledger.decide(decisions, who="consensus", iteration=iteration)

    say(one, "c2", "ann", 0)
    say(other, "c3", "ann", 0)  # confirms it: no decision rests on that
    decide(1)
    for person in ("ben", "cat", "dan", "eve"):
        say(one, "c3", person, 1)
    decide(2)
    assert [e.new for e in house.ledger.label_events(one)] == ["c1", "c2", "c3"]
    merge_third_into_right(house, [one, other], 2)
    for sample, people in ((one, ("ann", "ben", "cat", "dan", "eve")), (other, ("ann",))):
        for person in people:
            say(sample, WITHDRAWN, person, 9)
    for number in (3, 4):
        house.loop._take_back(number, house.ledger.verdicts())
    now = house.ledger.labels()
    assert (now[one].class_id, now[other].class_id) == ("c1", "c2")
    assert [e.kind for e in house.ledger.label_events(one)][-1] == "undo"
    assert house.ledger.label_events(other)[-1].kind == "decision"


def test_an_answer_taken_over_with_another_project_changes_no_label_of_the_holdout(tmp_path: Path) -> None:
    house = House(tmp_path)
    held = next(s.id for s in house.samples if s.split == "holdout")
    before = house.ledger.labels()[held].class_id
    other = {"c1": "c2", "c2": "c1"}[before or ""]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    house.ledger.add_verdicts([Verdict(held, other, "bob", at, f"adopted:{held}", "ls:x:annotation:5", "blind", 0)])
    house.loop.baseline()
    assert house.loop.advance(1, lambda: house.people) == "done"
    assert house.ledger.labels()[held].class_id == before
    assert house.loop._contested(2, house.ledger.labels()) == []


def test_a_report_counts_a_check_whose_answers_came_after_its_batch_was_decided_in_full_or_not_at_all(
    tmp_path: Path,
) -> None:
    house = House(tmp_path)
    held = [s.id for s in house.samples if s.split == "holdout"][:2]
    labels, at = house.ledger.labels(), datetime(2026, 1, 1, tzinfo=UTC)
    other = {"c1": "c2", "c2": "c1"}
    answers = {held[0]: other[labels[held[0]].class_id or ""], held[1]: labels[held[1]].class_id or ""}
    house.ledger.add_verdicts([
        Verdict(s, answer, who, at, f"k{s}", f"file:k{s}:{who}", "holdout", 1)
        for s, answer in answers.items() for who in ("ann", "bob")
    ])  # fmt: skip
    write_json(house.paths.holdout_flags, {})
    check = house.loop._holdout_check(1)
    assert check is not None
    assert (check.looked_others, check.changed_others) == (2, 1)


def test_an_answer_on_an_image_of_the_pool_can_be_withdrawn(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.loop.baseline()
    assert house.loop.advance(1, lambda: house.people) == "done"
    pool = {s.id for s in house.samples if s.split == "pool"}
    one = next(v for v in house.ledger.verdicts() if v.sample_id in pool)
    assert one.sample_id in house.ledger.labels()
    gone = replace(one, answer=WITHDRAWN, at=one.at + timedelta(seconds=1), id=0)
    house.ledger.add_verdicts([gone])
    collect = house.people.collect
    house.people.collect = (  # type: ignore[method-assign]
        lambda entries, known=(): [v for v in collect(entries, known) if v.source != one.source]
    )
    assert house.loop.advance(2, lambda: house.people) == "done"
    assert one.sample_id not in house.ledger.labels()
    assert house.ledger.label_events(one.sample_id)[-1].kind == "undo"
    assert house.ledger.undo(one.sample_id, who="ann", iteration=2).new == one.answer  # an undo can be undone
