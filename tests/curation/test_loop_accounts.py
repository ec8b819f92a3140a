"""What an iteration of the loop leaves for its report: what is still wrong, credit, and what is no gain of labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save
from tests_loop import FLIPPED, House, ran
from tests_stand_ins import content_id, draw

from augment.choose import unchanged
from curation.account import _confidence, audit_of, credits_of, summarize
from curation.config import CostSettings, Settings
from curation.credit import action_sets
from curation.figures import metrics_json, row_from_json
from curation.judging import trainable
from curation.ledger import NewPath, NewSample
from curation.parts import Account
from curation.records import Augmentation, Condition, Decision, Predictions, Sample, Slice
from curation.reporting import Recording, Reporting
from curation.runs import finished, read_json
from curation.terminal import table_of
from reports.summary import IterationSummary, gain_badge


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A house in which the baseline and one iteration have run."""
    return ran(tmp_path_factory.mktemp("done"))


def test_the_account_holds_labels_before_and_after(done: House) -> None:
    account = done.recorder.accounts[-1]
    changed = [s for s in done.truth if s in account.before and account.before[s].class_id != account.after[s].class_id]
    assert len(changed) == account.review["changed"] >= FLIPPED - 2


def test_the_account_tells_what_is_still_wrong_and_what_to_do_next(done: House) -> None:
    account = done.recorder.accounts[-1]
    assert account.said is not None
    asked = {e.sample_id for e in done.ledger.queue(1) if e.given is not None}
    assert set(account.said.sample_ids) == asked
    assert {v.sample_id for v in account.verdicts} >= asked
    audit = audit_of(account, done.ledger.queue(1), (), None, 0)
    left = sum(
        c.class_id != done.truth[s] for s, c in account.after.items() if s in account.scored.quality  # type: ignore[union-attr]
    )  # fmt: skip
    assert audit.labels_wrong is not None
    assert audit.labels_wrong_ci is not None
    assert audit.labels_wrong_ci[0] <= left <= audit.labels_wrong_ci[1]
    assert audit.next is not None
    assert audit.next.action in ("review", "slices", "collect", "stop")
    assert [a.errors_found.value for a in audit.outlook] == sorted(a.errors_found.value for a in audit.outlook)
    assert audit.by_rank


def test_what_is_still_wrong_leaves_out_images_that_people_left_out(done: House) -> None:
    account = done.recorder.accounts[-1]
    assert account.scored is not None
    assert account.said is not None
    plain = audit_of(account, done.ledger.queue(1), (), None, 0)
    wrong = [s for s, c in account.after.items() if s in account.scored.quality and c.class_id != done.truth[s]]
    unseen = sorted(set(account.scored.quality) - set(account.said.sample_ids))
    doubted = sorted(unseen, key=lambda s: account.scored.quality[s])[:10]  # type: ignore[union-attr]
    without = account.after | {s: replace(account.after[s], excluded=True) for s in (*wrong, *doubted)}
    fewer = audit_of(replace(account, after=without), done.ledger.queue(1), (), None, 0)
    assert plain.labels_wrong is not None
    assert fewer.labels_wrong is not None
    assert fewer.labels_wrong.value < plain.labels_wrong.value
    reviewed = {s: replace(account.after[s], excluded=True) for s in account.said.sample_ids}
    nobody = audit_of(replace(account, after=account.after | reviewed), done.ledger.queue(1), (), None, 0)
    assert nobody.labels_wrong is not None
    assert nobody.labels_wrong.value <= plain.labels_wrong.value
    bad = [{**d, "outcome": "exclude"} for d in account.review["decisions"]]
    called_bad = [{**bad[0], "sample_id": s} for s in unseen]  # answers that name no class
    review = {**account.review, "decisions": [*bad, *called_bad]}
    judged = audit_of(replace(account, review=review), done.ledger.queue(1), (), None, 0)
    assert judged.next is not None
    assert judged.labels_wrong is not None
    assert judged.labels_wrong.value <= fewer.labels_wrong.value


def test_a_label_of_a_class_that_the_predictions_do_not_know_is_weighed_by_its_quality(done: House) -> None:
    account = done.recorder.accounts[-1]
    assert account.scored is not None
    assert account.said is not None
    one = next(s for s in account.scored.quality if s not in account.said.sample_ids)
    unknown = replace(account, before=account.before | {one: replace(account.before[one], class_id="c9")})
    other = next(s for s in account.scored.quality if s != one)
    shares = account.scored.predictions.take([other]).probabilities[0]
    own = shares[account.scored.predictions.class_ids.index(account.before[other].class_id)]
    assert _confidence(unknown, account.scored, [one, other]).tolist() == [account.scored.quality[one], own]
    assert audit_of(unknown, done.ledger.queue(1), (), None, 0).labels_wrong is not None


def test_copies_get_credit_for_what_they_count(done: House, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = done.ledger.labels()
    rows = [s.id for s in trainable(done.samples, labels)]
    given: list[npt.NDArray[np.float64] | None] = []

    def noted(*how: Any, **more: Any) -> Any:
        given.append(how[-1])
        return action_sets(*how, **more)

    monkeypatch.setattr("curation.loop.action_sets", noted)
    done.loop._credits(1, labels, [Augmentation("dark", tuple(rows), 1, unchanged)])
    assert given[0] is not None
    assert given[0].sum() == pytest.approx(len(rows) / 4, rel=0.05)


def test_a_network_that_a_recipe_taught_gets_its_credit_by_what_it_sees(
    done: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = done.ledger.labels()
    rows = [s.id for s in trainable(done.samples, labels)]
    given: list[Any] = []
    asked: list[Path | None] = []

    def noted(*how: Any, **more: Any) -> Any:
        given.append((how, more["taught"]))
        return action_sets(*how, **more)

    def seen(network: Path | None, samples: Any, progress: Any) -> npt.NDArray[np.float32]:
        asked.append(network)
        return np.random.default_rng(0).normal(size=(len(samples), 7)).astype(np.float32)

    monkeypatch.setattr("curation.loop.action_sets", noted)
    monkeypatch.setattr(done.loop, "parts", replace(done.loop.parts, taught=seen))
    taught = Augmentation("dark", tuple(rows), 1, unchanged, network=tmp_path / "network")
    credits = done.loop._credits(1, labels, [taught])
    (features, _, _, copies, copied, _), (of_rows, of_held) = given[0]
    assert of_rows.shape == (len(features), 7)
    assert of_held.shape[1] == 7
    assert len(copies) == len(copied) == 0
    assert asked == [None, tmp_path / "network"], "without it images are looked at in the same way"
    assert np.array_equal(features, of_rows)
    (credit,) = (c for c in credits if c.action == "augmentation")
    assert credit.gain.value == 0, "a network that sees just the same is worth nothing"


def test_the_account_gives_credit_to_what_was_done(done: House) -> None:
    account = done.recorder.accounts[-1]
    credits = {c.action: c for c in credits_of(account)}
    assert "relabeling" in credits
    assert "new labels" in credits or not account.review["labeled"]
    assert all(c.gain.ci is not None and c.gain.ci[0] <= c.gain.value <= c.gain.ci[1] for c in credits.values())
    seconds = sum(v.seconds or 0 for v in account.verdicts if v.sample_id in account.said.sample_ids)  # type: ignore[union-attr]
    assert credits["relabeling"].per_minute == pytest.approx(credits["relabeling"].gain.value / (seconds / 60))
    assert ("augmentation" in credits) == bool(account.trained["recipes"])


def test_slices_in_the_figures_name_classes_as_people_do(done: House) -> None:
    account = done.loop.account(1)
    assert account.scored is not None
    which = Condition("class", "=", "c1"), Condition("brightness", "<", 0.4)
    weak = Slice("class = left and brightness < 0.4", which, (), 9, 5, 0.5, (0.2, 0.8), 0.1, 0.01)
    summary = summarize(
        replace(account, scored=replace(account.scored, slices=(weak,))),
        project="p", backbone="b", seed=0, earlier=[], queue=done.ledger.queue(1), settled=(), links={},
    )  # fmt: skip
    (told,) = metrics_json(summary)["slices"]
    assert told["conditions"] == [
        {"field": "class", "op": "=", "value": "left"}, {"field": "brightness", "op": "<", "value": 0.4},
    ]  # fmt: skip


def test_a_model_that_was_trained_otherwise_is_no_gain_of_the_labels(done: House) -> None:
    account = done.loop.account(1)
    assert account.scored is not None
    without = replace(account.scored, slices=())
    shown = replace(account, model_before=wrong_predictions(account, 20), scored=without)

    def told(account: Account) -> IterationSummary:
        return summarize(
            account, project="p", backbone="b", seed=0, earlier=[], queue=done.ledger.queue(1), settled=(), links={},
            costs=CostSettings("left"),
        )  # fmt: skip

    assert account.trained["settings"]["seed"] == 0
    assert "backbone.device" not in account.trained["settings"], "a head is the same wherever it is made"
    assert account.trained_before == finished(done.paths.iteration(0), "train")
    assert gain_badge(told(shown).gain) == "Better"
    older = replace(shown, trained_before={"seed": 3}, trained={"seed": 0})  # before settings were noted
    assert told(older).gain == told(shown).gain
    other = {**account.trained["settings"], "seed": 3}
    summary = told(replace(shown, trained_before={"settings": other}))
    assert summary.gain is not None
    assert summary.costs is not None
    assert gain_badge(summary.gain) == "Trained otherwise"
    assert summary.gain.otherwise == ("seed 3, then 0",)
    assert not any(found for *_, found in summary.gain.per_class)
    assert summary.costs.saved is None
    assert all(ahead.gain is None for ahead in summary.audit.outlook)
    assert summary.advice[-2:] == (
        "Keep the settings as they are now: then the next gain is that of the labels.",
        "What single actions gained goes by heads that are trained alike, with the settings of now.",
    )
    assert not any("than before" in line or "No change shown" in line for line in summary.advice)
    metrics = metrics_json(summary)
    assert metrics["gain"]["otherwise"] == ["seed 3, then 0"]
    assert row_from_json(metrics) == summary.rows[-1]
    assert row_from_json({n: v for n, v in metrics.items() if n != "gain"}).otherwise == ()  # as once written
    status = {"baseline": None, "iterations": [{**metrics, "state": "done"}]}
    assert table_of(status).endswith("\nIteration 1 was trained otherwise than the one before: seed 3, then 0.")


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"whole": True}, {"model": "fine-tuned", "backbone.device": "cuda"}),
        ({"whole": False, "share": 0.5}, {"model": "fine-tuned", "backbone.device": "cpu"}),
        ({"whole": False, "share": 0}, {"model": "a head alone", "backbone.device": "cpu"}),
        ({"way": "views"}, {"model": "a head on views"}),
        ({}, {}),
    ],
)
def test_how_a_model_was_trained_stands_with_its_settings(
    done: House, tmp_path: Path, about: dict[str, object], told: dict[str, str]
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(save({"weight": np.zeros(1, dtype=np.float32)}, metadata={"curation": json.dumps(about)}))
    known = done.loop._model_settings(file)
    assert {name: known[name] for name in ("model", "backbone.device") if name in known} == told
    file.write_bytes(b"no model")
    assert not {"model", "backbone.device"} & {*done.loop._model_settings(file)}


def test_a_model_that_went_another_way_is_no_gain_of_the_labels(done: House) -> None:
    account = done.loop.account(1)
    assert account.scored is not None
    settings, without = account.trained["settings"], replace(account.scored, slices=())
    before, after = ({"settings": {**settings, "model": way}} for way in ("fine-tuned", "a head alone"))
    shown = replace(account, model_before=wrong_predictions(account, 20), scored=without)
    shown = replace(shown, trained_before=before, trained=after)
    summary = summarize(
        shown, project="p", backbone="b", seed=0, earlier=[], queue=done.ledger.queue(1), settled=(), links={}
    )
    assert summary.gain is not None
    assert summary.gain.otherwise == ("model fine-tuned, then a head alone",)
    assert gain_badge(summary.gain) == "Trained otherwise"
    assert "The model goes this way from now on: then the next gain is that of the labels." in summary.advice


def wrong_predictions(account: Account, count: int) -> Predictions:
    """The model's predictions, turned for so many images of the holdout that it gets right."""
    found = account.model_after
    held = {s.id for s in account.samples if s.split == "holdout"}
    right = [n for n, (s, c) in enumerate(zip(found.sample_ids, found.predicted(), strict=True))
             if s in held and account.after[s].class_id == c]  # fmt: skip
    turned = found.probabilities.copy()
    turned[right[:count]] = turned[right[:count], ::-1]
    return replace(found, probabilities=turned)


def test_a_report_made_again_leaves_figures_as_they_were_measured_and_tells_the_seed_of_then(
    done: House, tmp_path: Path
) -> None:
    settings = replace(Settings(), seed=5)
    reporting = Reporting(done.paths, settings, done.ledger, "net", lambda _: None, Recording(print), None)
    accounts = [done.loop.account(number) for number in (0, 1)]
    accounts[1] = replace(accounts[1], scored=replace(accounts[1].scored, slices=()))  # type: ignore[arg-type]
    for account in accounts:
        reporting.record(account)
    folder = done.paths.iteration(1)
    measured, told = read_json(folder / "metrics.json"), read_json(folder / "report" / "summary.json")
    assert (told["seed"], told["backbone"]) == (0, "net")
    held = [s for s in accounts[1].samples if s.split == "holdout"]
    fewer = replace(accounts[1], samples=[s for s in accounts[1].samples if s not in held[:15]])
    replace(reporting, backbone="other net").record(fewer)
    again = read_json(folder / "report" / "summary.json")
    assert read_json(folder / "metrics.json") == measured
    assert (again["seed"], again["backbone"], again["rows"]) == (0, "net", told["rows"])
    assert again["metrics"]["size"] == 25
    assert again["advice"][0].startswith("15 images are set aside that this iteration was measured with")
    reporting.record(accounts[1])
    assert read_json(folder / "report" / "summary.json") == told


def test_labels_that_come_by_import_get_their_own_credit_and_are_no_work_of_people(tmp_path: Path) -> None:
    house = House(tmp_path)
    pool = [s for s in house.samples if s.split == "pool"]
    given = {s.id: house.truth[s.id] for s in pool[:6]}
    house.ledger.add_samples([], [], given, who="import", why="label as given", iteration=1)
    house.ledger.decide([Decision(pool[6].id, "change", "c1", 1.0, (7,), "said so")], who="consensus", iteration=1)
    labels = house.ledger.labels(as_of=1)
    named = {c.action for c in house.loop._credits(1, labels, [])}
    assert named == {"imported labels", "new labels", "all"}
    before = house.loop._labels_before(1)
    assert {s: before[s].class_id for s in given} == given
    assert pool[6].id not in before


def test_an_account_tells_of_the_images_that_there_were(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.loop.baseline()
    truth = draw(tmp_path / "more", 4, seed=1)
    files = {content_id(tmp_path / "more" / path): tmp_path / "more" / path for path in truth}
    splits = ["train", "train", "holdout", "holdout"]
    house.ledger.add_samples(
        [NewSample(i, s, None, 24, 24) for i, s in zip(files, splits, strict=True)],  # type: ignore[arg-type]
        [NewPath(i, file.name, "", None, {}) for i, file in files.items()],
        dict.fromkeys(files, "c1"), who="import", why="label as given", iteration=1,
    )  # fmt: skip
    house.loop.samples = [
        *house.samples,
        *(Sample(i, f.name, f, s) for (i, f), s in zip(files.items(), splits, strict=True)),  # type: ignore[arg-type]
    ]
    account = house.loop.account(0)
    assert account.samples == house.samples
    assert account.features is not None
    assert len(account.features()) == len(account.samples)


def test_no_minute_counts_for_two_actions(done: House) -> None:
    asked = next(e.sample_id for e in done.ledger.queue(1) if e.given is not None)
    every, apart = done.loop._minutes(1, set()), done.loop._minutes(1, {asked})
    assert every["exclusions"] == 0
    assert apart["exclusions"] > 0
    assert apart["relabeling"] + apart["exclusions"] == pytest.approx(every["relabeling"])
    assert sum(apart.values()) == pytest.approx(2 * apart["all"])
