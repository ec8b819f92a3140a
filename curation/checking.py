"""The holdout of a project: its labels checked by people, every model's figures by the labels as given and as checked.

``curate holdout`` is a thin call of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from curation import holdout
from curation.audit import wilson_interval
from curation.errors import ConfigError, ProjectError
from curation.gain import needed_rows, paired_interval
from curation.project import Project
from curation.queue import opaque_key
from curation.records import Estimate, QueueEntry
from curation.reviews import in_classes_of_now
from curation.runs import decision_lock, finished, read_json, write_json
from curation.tables import predictions_from_frame, read_frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from curation.records import CurrentLabel, Interval, Predictions


def check_holdout(project: Project, count: int) -> dict[str, Any]:
    """Ask two people each about ``count`` labels of the holdout, half of them flagged, shown neither label nor reason.

    They go out with the batch of the iteration under way, or the next one, at once where Label Studio runs. What a
    batch that was closed left without two answers can be asked again. Returns ``queued``, ``flagged`` (how many of
    these), ``open`` (asked before with that batch and not yet answered) and ``sent``. Raises ConfigError for a count
    below 1, ProjectError where there is no holdout or all of it has been asked about.
    """
    if count < 1:
        raise ConfigError(f"--check must be 1 or more, got {count}")
    reasons = _flagged(project)
    number = project.deciding_iteration()
    usable = project.usable_samples()  # may read every file: not while others wait
    with decision_lock(project.paths):
        labels = project.ledger.labels()
        rows = {s.id for s in usable if s.split == "holdout" and _class(labels, s.id)}
        if not rows:
            raise ProjectError("there is no labeled holdout to check; bring in labeled images with split 'holdout'")
        asked = [e for e in project.ledger.queue(holdout=True) if e.mode == "holdout"]
        answered = holdout.answered(project.ledger.holdout_verdicts())
        waiting = {e.sample_id for e in asked if e.iteration == number} - answered
        fresh = rows - answered - waiting
        if not fresh:
            raise ProjectError(f"all {len(rows):,} labels of the holdout have been asked about; collect the answers")
        flagged = fresh & reasons.keys()
        chosen = holdout.draw_rows(flagged, fresh - flagged, count, seed=project.settings.seed + len(asked))
        about, secret = project.ledger.about()["id"], project.paths.secret.read_text(encoding="utf-8").strip()
        first = max((e.position for e in project.ledger.queue(number, holdout=True)), default=-1) + 1
        entries = [
            QueueEntry(
                opaque_key(secret, about, number, s, "holdout", 0), s, number, first + place, "holdout",
                _class(labels, s), None, reasons.get(s, ""), (), holdout.OPINIONS,
            )
            for place, s in enumerate(chosen)
        ]  # fmt: skip
        project.ledger.add_queue(entries)
    return {
        "queued": len(entries),
        "flagged": len(flagged & set(chosen)),
        "open": len(waiting),
        "sent": project.send_open(number),
    }


def holdout_report(project: Project) -> dict[str, Any]:
    """What is known of the holdout, and every model's figures by both versions of its labels.

    Keys: ``rows``; ``rows_needed`` to show a gain of one point, by how often the last two models disagree (``None``
    before there are two); ``check``, counts and ``wrong`` with ``wrong_ci``, ``words``; ``iterations``, for each model
    ``number``, ``accuracy`` and ``gain`` as given with intervals, and ``accuracy_checked`` and ``gain_checked`` by the
    labels that would stand if all were checked, ``None`` before anything is known of them.
    """
    ledger = project.ledger
    events, merged = ledger.label_events(), ledger.merged_classes()
    labels, verdicts = ledger.labels(), ledger.holdout_verdicts()
    given = holdout.as_given(labels, events, ledger.verdicts(holdout=True, every=True), merged)
    now = holdout.as_agreed(labels, in_classes_of_now(verdicts, merged), events)
    entries = {e.sample_id: e for e in ledger.queue(holdout=True) if e.mode == "holdout"}
    flagged = set(_flagged(project)) if entries else set()
    rows = [s.id for s in project.samples() if s.split == "holdout" and _class(given, s.id)]
    looked = (holdout.answered(verdicts) & entries.keys()) | holdout.changed_rows(rows, given, now)
    check = holdout.check_rows(rows, flagged, verdicts, given, now, seed=project.settings.seed)
    found: dict[str, Any] = {
        "rows": len(rows),
        "rows_needed": None,
        "check": {
            "flagged": check.flagged, "looked_flagged": check.looked_flagged, "looked_others": check.looked_others,
            "changed_flagged": check.changed_flagged, "changed_others": check.changed_others,
            "wrong": check.wrong.value if check.wrong else None, "wrong_ci": _ci(check.wrong), "words": check.words,
        },
        "iterations": [],
    }  # fmt: skip
    before: Predictions | None = None
    for number in [0, *(i.number for i in ledger.iterations())]:
        folder = project.paths.iteration(number)
        if finished(folder, "train") is None:
            continue
        model = predictions_from_frame(read_frame(folder / "model_predictions.parquet"))
        model = model.over(ledger.classes().ids, ledger.merged_classes())
        figures = _figures(model, before, rows, given, now, flagged, looked, project.settings.seed)
        found["rows_needed"] = figures.pop("rows_needed") or found["rows_needed"]
        found["iterations"].append({"number": number, **figures})
        before = model
    return found


def _figures(
    model: Predictions,
    before: Predictions | None,
    rows: list[str],
    given: Mapping[str, CurrentLabel],
    now: Mapping[str, CurrentLabel],
    flagged: set[str],
    looked: set[str],
    seed: int,
) -> dict[str, Any]:
    """Accuracy of a model, and its gain over the one before, by the labels as given and as checked."""
    known = set(model.sample_ids) if before is None else set(model.sample_ids) & set(before.sample_ids)
    common = [s for s in rows if s in known]
    masks = _mask(common, flagged), _mask(common, looked)
    right = {name: _right(model, common, labels) for name, labels in (("given", given), ("now", now))}
    found: dict[str, Any] = {"rows": len(common), "gain": None, "gain_ci": None, "gain_checked": None,
                             "gain_checked_ci": None, "rows_needed": None}  # fmt: skip
    if not common:
        return found | {"accuracy": None, "accuracy_ci": None, "accuracy_checked": None, "accuracy_checked_ci": None}
    accuracy, interval = _accuracy(right["given"])
    checked = holdout.corrected_mean(
        right["given"], right["now"], *masks, (-1, 0, 1), _accuracy(right["now"])[1], seed=seed
    )
    found |= {"accuracy": accuracy, "accuracy_ci": list(interval),
              "accuracy_checked": checked.value if checked else None, "accuracy_checked_ci": _ci(checked)}  # fmt: skip
    if before is not None:
        steps = {
            name: right[name] - _right(before, common, labels) for name, labels in (("given", given), ("now", now))
        }
        gain, interval = _gain(steps["given"])
        checked = holdout.corrected_mean(
            steps["given"], steps["now"], *masks, (-2, -1, 0, 1, 2), _gain(steps["now"])[1], seed=seed
        )
        found |= {"gain": gain, "gain_ci": list(interval),
                  "gain_checked": checked.value if checked else None, "gain_checked_ci": _ci(checked),
                  "rows_needed": needed_rows(float((steps["given"] != 0).mean()), len(common))}  # fmt: skip
    return found


def _accuracy(right: holdout.Values) -> tuple[float, Interval]:
    """The share of rows that are right (rows,), and its interval, as an iteration's figures have it."""
    return float(right.mean()), wilson_interval(int(right.sum()), len(right))


def _gain(steps: holdout.Values) -> tuple[float, Interval]:
    """The mean of rows newly right (1) or newly wrong (-1), (rows,), and its interval, as above."""
    return float(steps.mean()), paired_interval(int((steps > 0).sum()), int((steps < 0).sum()), len(steps))


def _right(model: Predictions, rows: list[str], labels: Mapping[str, CurrentLabel]) -> holdout.Values:
    predicted = model.take(rows)
    named = [predicted.class_ids[column] for column in predicted.probabilities.argmax(axis=1)] if rows else []
    return np.array([name == _class(labels, s) for name, s in zip(named, rows, strict=True)], dtype=np.int64)


def _flagged(project: Project) -> dict[str, str]:
    """The rows of the holdout that were flagged when a check was first asked for, and why; found once and kept.

    Where none was, they are looked for again.
    """
    file = project.paths.holdout_flags
    if file.exists() and (kept := dict(read_json(file))):
        return kept
    flags = project.flag()
    held = {s.path: s.id for s in project.samples() if s.split == "holdout"}
    found = {
        held[path]: str(reason)
        for path, issue, reason in zip(flags["path"], flags["issue"], flags["reason"], strict=True)
        if path in held and issue == "true"
    }
    write_json(file, found)
    return found


def _class(labels: Mapping[str, CurrentLabel], sample_id: str) -> str | None:
    return labels[sample_id].class_id if sample_id in labels else None


def _mask(rows: list[str], chosen: set[str]) -> holdout.Mask:
    return np.array([s in chosen for s in rows], dtype=bool)


def _ci(estimate: Estimate | None) -> list[float] | None:
    return list(estimate.ci) if estimate and estimate.ci else None
