"""From what an iteration left behind to what it has to say: figures, pictures to show, advice in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation import audit as auditing
from curation import gain as gains
from curation import slice_words
from curation import slices as slicing
from curation.config import CostSettings
from curation.costs import CostFigures, label_weights, measure_costs, positive_class
from curation.credit import Credit
from curation.evidence import Said, doubt_of, learn
from curation.issues import LABEL_KINDS
from curation.judging import labeled_holdout, slice_table, trainable
from curation.parts import Account, Scored
from curation.records import (
    Decision,
    Estimate,
    Predictions,
    QueueEntry,
    Sample,
    Slice,
    Verdict,
)
from curation.runs import read_json
from curation.words import counted
from reports.summary import LEFT_OUT, Audit, Card, Gain, IterationSummary, Row, SliceCard

if TYPE_CHECKING:
    import pandas as pd

    from curation.tracking import Shot

WORST_SHOWN = 36
CHANGED_SHOWN = 24
EXAMPLES_SHOWN = 6
#: Weak slices of which the short answer says what to collect.
SHOTS_SHOWN = 2


def summarize(
    account: Account,
    *,
    project: str,
    backbone: str,
    seed: int,
    earlier: Sequence[Row],
    queue: Sequence[QueueEntry],
    settled: Collection[str],
    links: Mapping[str, str],
    still_wrong: int | None = None,
    costs: CostSettings | None = None,
) -> IterationSummary:
    """Everything that the iteration has to say.

    ``earlier`` are the rows of iterations before it, in order; ``queue`` its entries; ``settled`` the samples that
    people had judged before it.
    """
    holdout = labeled_holdout(account.samples, account.after)
    truth = {s.id: account.after[s.id].class_id or "" for s in holdout}
    after = account.model_after.take([s.id for s in holdout]) if holdout else None
    before = account.model_before.take([s.id for s in holdout]) if holdout and account.model_before else None
    metrics = gains.measure(after, truth, seed=seed, classes=account.classes) if after else None
    metrics_before = gains.measure(before, truth, seed=seed, classes=account.classes) if before else None
    gain = _gain(account, before, after, truth, seed) if before and after else None
    comparable = gain is None or gain.tells
    cards = slice_cards(account, holdout, before, after)
    cards = cards if comparable else tuple(replace(card, before=None) for card in cards)
    open_slices = len([c for c in cards if c.slice.status == "open"])
    audit = audit_of(account, queue, settled, gain if comparable else None, open_slices, costs)
    row = Row(
        number=account.number,
        labels_reviewed=int(account.review.get("reviewed", 0)),
        labels_changed=int(account.review.get("changed", 0)),
        accuracy=metrics.accuracy if metrics else None,
        balanced_accuracy=metrics.balanced_accuracy if metrics else None,
        weakest_slice=next((card.slice.name for card in cards if card.slice.status != "fixed"), ""),
        still_wrong=still_wrong,
        otherwise=gain.otherwise if gain else (),
        size=metrics.size if metrics else None,
    )
    return IterationSummary(
        project=project,
        number=account.number,
        classes=account.classes.names,
        backbone=backbone,
        device=str(account.trained.get("words", "")),
        seed=seed,
        counts=_counts(account),
        labels_reviewed=row.labels_reviewed,
        labels_changed=row.labels_changed,
        labels_excluded=int(account.review.get("excluded", 0)),
        contested=int(account.review.get("contested", 0)),
        ambiguous=int(account.review.get("ambiguous", 0)),
        other=int(account.review.get("other", 0)),
        metrics=metrics,
        before=metrics_before,
        gain=gain,
        audit=audit,
        issues=dict(Counter(i.kind for i in account.scored.issues)) if account.scored else {},
        worst=_worst(account, settled),
        changed=_changed(account),
        slices=cards,
        confusion=gains.confusion(after, truth) if after else (),
        reliability=gains.reliability(after, truth) if after else (),
        rows=(*earlier, row),
        advice=advise(account, gain, cards, audit),
        links=links,
        credits=credits_of(account),
        costs=costs_of(account, after, before if comparable else None, truth, costs) if after and costs else None,
        cost_class=account.classes.name(positive_class(costs, account.classes, account.merged)) if costs else "",
    )


def costs_of(
    account: Account,
    after: Predictions,
    before: Predictions | None,
    truth: Mapping[str, str],
    costs: CostSettings,
) -> CostFigures | None:
    """Escapes, false rejects and what they cost, where costs are set."""
    positive = positive_class(costs, account.classes, account.merged)
    return None if positive is None else measure_costs(after, before, truth, costs, positive)


def credits_of(account: Account) -> tuple[Credit, ...]:
    """What each action gained, as training has left it."""
    return tuple(
        Credit(
            c["action"],
            Estimate(c["gain"]["value"], tuple(c["gain"]["ci"]) if c["gain"]["ci"] else None),
            c["shown"],
            c["per_minute"],
            c.get("unjudged", 0),
        )
        for c in account.trained.get("credits", [])
    )


def _gain(account: Account, before: Predictions, after: Predictions, truth: Mapping[str, str], seed: int) -> Gain:
    settings = (trained.get("settings", {}) for trained in (account.trained_before, account.trained))
    otherwise = gains.changed_settings(*settings)
    unjudged = _taught_alone(account, truth)
    comparison = gains.compare(before, after, truth, seed=seed, otherwise=otherwise, unjudged=unjudged)
    return Gain(
        accuracy=comparison.accuracy,
        balanced_accuracy=comparison.balanced_accuracy,
        log_loss=comparison.log_loss,
        p_value=comparison.p_value,
        shown=comparison.shown,
        words=comparison.words,
        rows=len(before),
        disagreement=comparison.disagreement,
        per_class=tuple(
            (account.classes.name(c.class_id), c.recall, c.shown and not otherwise and not comparison.unjudged)
            for c in gains.class_changes(before, after, truth)
        ),
        otherwise=comparison.otherwise,
        unjudged=tuple(account.classes.name(c) for c in comparison.unjudged),
    )


def _taught_alone(account: Account, truth: Mapping[str, str]) -> set[str]:
    """Classes that no image of the holdout has, where most labels that changed in training went to or from these."""
    was, now = (
        {s.id: known[s.id].class_id or "" for s in trainable(account.samples, known)}
        for known in (account.before, account.after)
    )
    was = {s: c for s, c in was.items() if s not in account.imported}  # the model before was not trained on these
    moved = [{was.get(s), now.get(s)} - {None} for s in {*was, *now} if was.get(s) != now.get(s)]
    seen = set(truth.values())
    alone = [classes - seen for classes in moved if classes - seen]
    return {c for classes in alone for c in classes if c} if 2 * len(alone) > len(moved) else set()


def _counts(account: Account) -> dict[str, int]:
    labeled = trainable(account.samples, account.after)
    return {
        "samples": len(account.samples),
        "train": len(labeled),
        "holdout": len(labeled_holdout(account.samples, account.after)),
        "pool": len([s for s in account.samples if s.split == "pool" and s.id not in account.after]),
        "excluded": len([c for c in account.after.values() if c.excluded]),
    }


def slice_cards(
    account: Account, holdout: Sequence[Sample], before: Predictions | None, after: Predictions | None
) -> tuple[SliceCard, ...]:
    """The weak slices, confirmed on the holdout, with examples and what their recipe did to them."""
    scored = account.scored
    if scored is None or not scored.slices:
        return ()
    slices = list(scored.slices)
    masks: list[npt.NDArray[np.bool_]] = [np.zeros(len(holdout), dtype=bool) for _ in slices]
    wrong_before: npt.NDArray[np.bool_] = np.zeros(len(holdout), dtype=bool)
    wrong_after = wrong_before
    if holdout and before and after:
        labels = [account.after[s.id].class_id or "" for s in holdout]
        looks = account.looks
        known = account.properties if looks is None else account.properties.join(looks)
        table = slice_table(holdout, known, asked=slices)
        wrong_before = np.array([p != t for p, t in zip(before.predicted(), labels, strict=True)])
        wrong_after = np.array([p != t for p, t in zip(after.predicted(), labels, strict=True)])
        slices = slicing.confirm_slices(slices, table, wrong_before, labels, account.classes)
        masks = [slicing.members(s, table, labels) for s in slices]
    cards = []
    shots = {shot.slice: shot for shot in account.shots}
    for found, mask in zip(slices, masks, strict=True):
        preview = account.folder / "recipe.png" if found.repair in ("recipe", "unproven") else None
        shot = shots.get(found.name)
        cards.append(
            SliceCard(
                slice=found,
                words=slice_words.words(found, account.classes),
                examples=_examples(account, scored, found),
                recipe_words=_recipe_words(account, found),
                preview=preview.read_bytes() if preview and preview.exists() else None,
                before=_rate(wrong_before[mask]),
                after=_rate(wrong_after[mask]),
                shot=_shot_words(shot) if shot else "",
                wanted=shot.wanted if shot else 0,
                arrived=shot.arrived if shot else 0,
                values=tuple(
                    account.classes.name(str(c.value)) if c.field == "class" else c.value for c in found.conditions
                ),
            )
        )
    return tuple(cards)


def _recipe_words(account: Account, found: Slice) -> str:
    """What was done about a slice in this iteration; empty where nothing was."""
    if found.recipe is None:
        return ""
    if found.repair == "oversampling":
        return "These images are shown more often in training."
    words = str(read_json(account.folder / "recipe.json").get("words", ""))
    return f"Not proven to help, used on trial: {words}" if found.repair == "unproven" else words


def _shot_words(shot: Shot) -> str:
    if not shot.pool or shot.done:
        return shot.words
    return f"{shot.words}; {len(shot.pool)} unlabeled images are in the pool, the nearest are asked about first"


def _rate(wrong: npt.NDArray[np.bool_]) -> Estimate | None:
    if not len(wrong):
        return None
    count = int(wrong.sum())
    return Estimate(count / len(wrong), auditing.wilson_interval(count, len(wrong)))


def _examples(account: Account, scored: Scored, found: Slice) -> tuple[Card, ...]:
    """The members whose labels look worst; those that were put right in this iteration only where there are no others.

    What these were is among the labels that changed; as an example of what is weak a repaired one would mislead.
    """
    by_id = {s.id: s for s in account.samples}
    members = [s for s in found.sample_ids if s in scored.quality]
    as_they_were = [s for s in members if not _differs(account, by_id[s])]
    worst = sorted(as_they_were or members, key=lambda s: (scored.quality[s], s))[:EXAMPLES_SHOWN]
    return tuple(_card(account, scored, by_id[s], {}) for s in worst)


def _card(account: Account, scored: Scored, sample: Sample, reasons: Mapping[str, tuple[str, str | None]]) -> Card:
    classes = account.classes
    before, after = account.before.get(sample.id), account.after.get(sample.id)
    predicted = ""
    if sample.id in scored.quality:
        predicted = classes.name(scored.predictions.take([sample.id]).predicted()[0])
    reason, suggested = reasons.get(sample.id, ("", None))
    return Card(
        sample_id=sample.id,
        path=sample.path,
        file=sample.file,
        given=classes.name(before.class_id if before else None),
        current=(LEFT_OUT if after.excluded else classes.name(after.class_id)) if after else "",
        predicted=predicted,
        suggested=classes.name(suggested),
        label_quality=scored.quality.get(sample.id),
        reason=reason,
        bits=sample.bits,
    )


def _decisions(account: Account) -> list[dict[str, Any]]:
    """What was decided in this iteration, by labelers and by reviewers."""
    return [*account.review.get("decisions", []), *account.review.get("reviewers_decisions", [])]


def _worst(account: Account, settled: Collection[str]) -> tuple[Card, ...]:
    """The labels that were flagged, worst first, without those that people have settled before or in this iteration."""
    scored = account.scored
    if scored is None:
        return ()
    settled = {
        *settled,
        *(d["sample_id"] for d in _decisions(account) if d["outcome"] not in ("contested", "ambiguous")),
    }
    flagged = [i for i in scored.issues if i.kind == "label" and i.sample_id not in settled][:WORST_SHOWN]
    by_id = {s.id: s for s in account.samples}
    reasons = {i.sample_id: (i.reason, i.suggested) for i in flagged}
    return tuple(_card(account, scored, by_id[i.sample_id], reasons) for i in flagged)


def _changed(account: Account) -> tuple[Card, ...]:
    scored = account.scored
    if scored is None:
        return ()
    reasons = {d["sample_id"]: (str(d["why"]), d["class_id"]) for d in _decisions(account)}
    changed = [s for s in account.samples if _differs(account, s)]
    return tuple(_card(account, scored, s, reasons) for s in changed[:CHANGED_SHOWN])


def _differs(account: Account, sample: Sample) -> bool:
    before, after = account.before.get(sample.id), account.after.get(sample.id)
    if before is None or after is None:
        return before is not after
    return (before.class_id, before.excluded) != (after.class_id, after.excluded)


def audit_of(
    account: Account,
    queue: Sequence[QueueEntry],
    settled: Collection[str],
    gain: Gain | None,
    weak_slices: int,
    costs: CostSettings | None = None,
) -> Audit:
    """What the verdicts say of the flagger and of people, what is still wrong, and what more reviews would bring.

    ``settled`` are samples that people had judged before this iteration.
    """
    scored = account.scored
    decisions = [Decision(**{**d, "cites": tuple(d["cites"])}) for d in account.review.get("decisions", [])]
    if scored is None or not decisions:
        return Audit()
    flagged = {i.sample_id for i in scored.issues if i.kind in LABEL_KINDS}
    dealt_with = {d.sample_id for d in decisions if d.outcome != "contested"}
    left_out = {s for s, now in account.after.items() if now.excluded}
    by_sample = {d.sample_id: d for d in decisions}
    seen = Audit(
        flagger_precision=auditing.flagger_precision(queue, by_sample),
        by_rank=auditing.precision_by_rank(queue, by_sample),
        by_class=tuple((account.classes.name(c), share) for c, share in auditing.precision_by_class(queue, by_sample)),
        sway=auditing.sway(queue, account.verdicts),
    )
    said = account.said
    if said is None or not len(said.answers) or said.answers.flagged.all():
        # Without a single control nothing but the flagger itself tells what it misses.
        return seen
    beliefs = learn(said.answers)
    spoken_of = {*said.sample_ids, *settled, *dealt_with, *left_out}
    left = [s for s in scored.quality if s not in spoken_of]
    doubt = doubt_of(_confidence(account, scored, left))
    open_flags = np.array([s in flagged for s in left], dtype=bool)
    quality = np.array([scored.quality[s] for s in left], dtype=np.float64)
    there = np.array([s not in left_out for s in said.sample_ids], dtype=bool)  # what was left out is no label now
    changed = _changed_as_said(account, said)[there]
    wrong = auditing.still_wrong(beliefs, said.answers.of(there), changed, doubt, open_flags)
    return replace(
        seen,
        flagger_recall=auditing.recall(beliefs, said.answers, doubt, open_flags),
        labels_wrong=wrong,
        labels_wrong_ci=wrong.ci,
        outlook=auditing.look_ahead(
            beliefs, doubt, open_flags, gained=gain.accuracy if gain else None,
            repaired=int(account.review.get("changed", 0)), quality=quality,
        ),
        next=auditing.recommend(beliefs, said.answers, doubt, open_flags, weak_slices=weak_slices,
            weights=_stakes(account, left, costs), quality=quality,
        ),
    )  # fmt: skip


def _stakes(account: Account, left: Sequence[str], costs: CostSettings | None) -> npt.NDArray[np.float64] | None:
    """What each of these labels may cost, 1 at most; those that are not flagged as little as any."""
    positive = positive_class(costs, account.classes, account.merged) if costs else None
    if positive is None or costs is None or account.scored is None:
        return None
    known = label_weights([i for i in account.scored.issues if i.kind in LABEL_KINDS], costs, positive)
    least = min(costs.miss, costs.false_alarm) / max(costs.miss, costs.false_alarm)
    return np.array([known.get(s, least) for s in left], dtype=np.float64)


def _confidence(account: Account, scored: Scored, sample_ids: Sequence[str]) -> npt.NDArray[np.float64]:
    """The probability of each sample's label as it was judged, (samples,), which answers are weighed by."""
    column = {class_id: place for place, class_id in enumerate(scored.predictions.class_ids)}
    given = [now.class_id if (now := account.before.get(s)) else None for s in sample_ids]
    shares = scored.predictions.take(sample_ids).probabilities
    return np.array(
        [
            row[column[c]] if c in column else scored.quality[s]  # a class that the predictions do not know
            for row, c, s in zip(shares, given, sample_ids, strict=True)
        ],
        dtype=np.float64,
    )


def _changed_as_said(account: Account, said: Said) -> npt.NDArray[np.bool_]:
    """Which of the labels that people spoke of are now the class that most others named, shape (labels,)."""
    now = [account.after.get(s) for s in said.sample_ids]
    pairs = zip(now, said.others, strict=True)
    return np.array([c is not None and o is not None and c.class_id == o for c, o in pairs], dtype=bool)


def advise(account: Account, gain: Gain | None, cards: Sequence[SliceCard], audit: Audit) -> tuple[str, ...]:
    """What to do next, in plain sentences, most pressing first."""
    if account.number == 0:
        return ("This is the model on the labels as given; review the queue to see what better labels are worth.",)
    lines = []
    if audit.next is not None:
        lines.append(audit.next.words)
        if audit.labels_wrong is not None and audit.labels_wrong_ci is not None:
            low, high = audit.labels_wrong_ci
            lines.append(f"About {audit.labels_wrong.value:.0f} labels are still wrong ({low:.0f} to {high:.0f}).")
    elif audit.flagger_precision is not None:
        share = audit.flagger_precision.value
        if share >= 0.3:
            lines.append(f"Go on reviewing: {share:.0%} of the flagged labels that were looked at were wrong.")
        else:
            lines.append(f"Reviewing pays less now: {share:.0%} of the flagged labels were wrong. Turn to weak slices.")
    if account.checked is not None and account.checked.looked_flagged + account.checked.looked_others:
        lines.append(account.checked.words)
    if count := account.review.get("contested"):
        said = counted(count, "image is contested; it comes", "images are contested; they come")
        lines.append(f"{said} first in the next batch.")
    if count := account.review.get("ambiguous"):
        lines.append(f"{counted(count, 'image was', 'images were')} called ambiguous: sharpen the class guide.")
    if count := account.review.get("other"):
        said = counted(count, "image fits", "images fit")
        lines.append(f"{said} none of the classes; `curate guide` shows what people wrote: perhaps a class is missing.")
    weak = [card for card in cards if card.slice.status != "fixed"]
    if weak:
        lines.append(f"Weakest slice: {weak[0].words}")
    short = {card.slice.name for card in cards if card.arrived < card.wanted}
    if shots := [shot for shot in account.shots if shot.slice in short]:
        first = "; ".join(shot.words for shot in shots[:SHOTS_SHOWN])
        rest = len(shots) - SHOTS_SHOWN
        more = f"; and for {rest} more weak slice{'s' if rest > 1 else ''}" if rest > 0 else ""
        lines.append(f"Collect or label: {first}{more}.")
        if in_pool := {sample_id for shot in shots for sample_id in shot.pool}:
            there = counted(len(in_pool), "unlabeled image is", "unlabeled images are")
            lines.append(f"{there} in the pool; the nearest to these are asked about first.")
    if gain is not None:
        lines += [
            f"Class '{name}' is {'better' if change.value > 0 else 'worse'} than before: recall "
            f"{100 * change.value:+z.1f} points."
            for name, change, shown in gain.per_class
            if shown
        ]
    if gain is not None and gain.otherwise:
        kept = "Keep the settings as they are now"
        if all(other.startswith("model ") for other in gain.otherwise):
            kept = "The model goes this way from now on"
        lines.append(f"{kept}: then the next gain is that of the labels.")
        if account.trained.get("credits"):
            lines.append("What single actions gained goes by heads that are trained alike, with the settings of now.")
    elif gain is not None and gain.unjudged:
        named = ", ".join(f"'{name}'" for name in gain.unjudged)
        lines.append(
            f"No image of the holdout is labeled {named}, so that it can't tell what such labels are worth: bring in "
            "images of it with split 'holdout', or have people look for it there (`curate holdout --check N`)."
        )
    elif gain is not None and not gain.shown:
        lines.append("No change shown yet: the holdout can't tell this gain from chance.")
        lines += too_small(gain)
    return tuple(lines)


def too_small(gain: Gain) -> list[str]:
    """Says so where the holdout can't show a gain of one point of accuracy, with how many images it takes."""
    low, high = gain.accuracy.ci or (0.0, 0.0)
    if gain.rows == 0 or (high - low) / 2 <= 0.01:
        return []
    needed = gains.needed_rows(gain.disagreement, gain.rows)
    return [gains.too_few_words(gain.rows, needed)] if needed > gain.rows else []


def sample_table(account: Account, verdicts: Sequence[Verdict], live: Sequence[Mapping[str, str]] = ()) -> pd.DataFrame:
    """One row a sample for the FiftyOne dataset; labels are class names, ``label_quality`` in [0, 1] or NaN.

    ``live`` is what ``curation.reviews.live_rows`` says of each sample at this moment.
    """
    import pandas as pd

    classes, scored = account.classes, account.scored
    issues: dict[str, list[Any]] = {}
    for issue in scored.issues if scored else ():
        issues.setdefault(issue.sample_id, []).append(issue)
    slices_of: dict[str, list[str]] = {}
    for weak in scored.slices if scored else ():
        for sample_id in weak.sample_ids:
            slices_of.setdefault(sample_id, []).append(weak.name)
    said: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.iteration == account.number and verdict.mode != "review":
            said.setdefault(verdict.sample_id, []).append(f"{classes.name(verdict.answer)} ({verdict.person})")
    predicted = _predicted(account)
    disputed = {d["sample_id"] for d in account.review.get("decisions", []) if d["outcome"] == "contested"}
    now = {row["sample_id"]: row for row in live}
    rows = []
    for sample in account.samples:
        before, after = account.before.get(sample.id), account.after.get(sample.id)
        found = issues.get(sample.id, [])
        label, confidence, fold = predicted.get(sample.id, (None, float("nan"), -1))
        label_issue = next((i for i in found if i.kind == "label"), None)
        rows.append(
            {
                "sample_id": sample.id, "path": sample.path, "file": str(Path(sample.file).absolute()),
                "split": sample.split, "group": sample.group or "", "width": sample.width, "height": sample.height,
                "given": classes.name(before.class_id) if before else None,
                "current": classes.name(after.class_id) if after else None,
                "prediction": label, "confidence": confidence,
                "label_quality": scored.quality.get(sample.id, float("nan")) if scored else float("nan"),
                "issue": label_issue is not None, "issue_kinds": ",".join(sorted({i.kind for i in found})),
                "reason": "; ".join(i.reason for i in found),
                "suggested": classes.name(label_issue.suggested) if label_issue else "",
                "verdict": "; ".join(said.get(sample.id, [])), "changed": _differs(account, sample), "fold": fold,
                "disputed": sample.id in disputed,
                **({"now": now[sample.id]["current"]} if sample.id in now else {}),
                **{name: now.get(sample.id, {}).get(name, "") for name in ("review", "cause", "note")},
                "slices": slices_of.get(sample.id, []),
                **{f"meta_{k}": v for k, v in sample.metadata.items()},
            }
        )  # fmt: skip
    table = pd.DataFrame(rows)
    numbers = account.properties.loc[[s.id for s in account.samples]].add_prefix("prop_").reset_index(drop=True)
    return pd.concat([table, numbers], axis=1)


def _predicted(account: Account) -> dict[str, tuple[str, float, int]]:
    """Each sample's out-of-sample prediction: of the scoring for labeled rows, of the model for the others."""
    result: dict[str, tuple[str, float, int]] = {}
    for predictions in (account.model_after, account.scored.predictions if account.scored else None):
        if predictions is None:
            continue
        best = predictions.probabilities.max(axis=1)
        for sample_id, class_id, confidence, fold in zip(
            predictions.sample_ids, predictions.predicted(), best.tolist(), predictions.folds.tolist(), strict=True
        ):
            result[sample_id] = (account.classes.name(class_id), confidence, fold)
    return result
