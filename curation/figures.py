"""An iteration's figures as JSON, and what is read back of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curation import gain as gains
from curation.costs import CostFigures
from curation.credit import credit_words
from curation.records import Estimate, Metrics
from reports.summary import Audit, IterationSummary, Row, SliceCard


def metrics_json(summary: IterationSummary) -> dict[str, Any]:
    """The iteration's figures for ``status --json`` and ``metrics.json``; fractions, intervals as ``[low, high]``."""
    audit = summary.audit
    return {
        "number": summary.number,
        "labels_reviewed": summary.labels_reviewed,
        "labels_changed": summary.labels_changed,
        "labels_excluded": summary.labels_excluded,
        "contested": summary.contested,
        "ambiguous": summary.ambiguous,
        "other": summary.other,
        "counts": dict(summary.counts),
        "issues": dict(summary.issues),
        "holdout": _holdout_json(summary.metrics),
        "gain": {
            "accuracy": summary.gain.accuracy.value,
            "accuracy_ci": _interval(summary.gain.accuracy),
            "p_value": summary.gain.p_value,
            "shown": summary.gain.shown,
            "otherwise": list(summary.gain.otherwise),
            "unjudged": list(summary.gain.unjudged),
            "words": summary.gain.words,
            "per_class": [
                {"name": name, "recall": change.value, "ci": _interval(change), "shown": shown}
                for name, change, shown in summary.gain.per_class
            ],
            "rows": summary.gain.rows,
            "rows_needed": gains.needed_rows(summary.gain.disagreement, summary.gain.rows),
        }
        if summary.gain
        else None,
        "slices": [_slice_json(card) for card in summary.slices],
        "audit": {
            "labels_wrong": audit.labels_wrong.value if audit.labels_wrong else None,
            "labels_wrong_ci": _interval(audit.labels_wrong),
            "flagger_precision": audit.flagger_precision.value if audit.flagger_precision else None,
            "flagger_precision_ci": _interval(audit.flagger_precision),
            "flagger_recall": audit.flagger_recall.value if audit.flagger_recall else None,
            "flagger_recall_ci": _interval(audit.flagger_recall),
            "precision_by_rank": _shares_json(audit.by_rank),
            "precision_by_class": _shares_json(audit.by_class),
            "sway": audit.sway.value if audit.sway else None,
            "sway_ci": _interval(audit.sway),
        },
        "next": _next_json(audit),
        "costs": _costs_json(summary.costs),
        "credit": {
            "words": credit_words(summary.credits) if summary.number else "",
            "actions": [
                {
                    "action": c.action,
                    "gain": c.gain.value,
                    "gain_ci": _interval(c.gain),
                    "shown": c.shown,
                    "per_minute": c.per_minute,
                }
                for c in summary.credits
            ],
        },
        "still_wrong": summary.rows[-1].still_wrong,
        "weakest_slice": summary.rows[-1].weakest_slice,
        "advice": list(summary.advice),
    }


def _holdout_json(metrics: Metrics | None) -> dict[str, Any]:
    if metrics is None:
        return {"size": 0, "accuracy": None, "accuracy_ci": None, "balanced_accuracy": None, "log_loss": None}
    return {
        "size": metrics.size,
        "accuracy": metrics.accuracy.value,
        "accuracy_ci": _interval(metrics.accuracy),
        "balanced_accuracy": metrics.balanced_accuracy.value,
        "balanced_accuracy_ci": _interval(metrics.balanced_accuracy),
        "log_loss": metrics.log_loss.value,
        "log_loss_ci": _interval(metrics.log_loss),
    }


def _costs_json(figures: CostFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    named = {name: getattr(figures, name) for name in ("escapes", "false_rejects", "cost", "saved")}
    return {n: e.value if e else None for n, e in named.items()} | {f"{n}_ci": _interval(e) for n, e in named.items()}


def _shares_json(shares: Sequence[tuple[str, Estimate]]) -> list[dict[str, Any]]:
    return [{"name": name, "value": share.value, "ci": _interval(share)} for name, share in shares]


def _next_json(audit: Audit) -> dict[str, Any] | None:
    """What to do next, and what more reviews would bring; ``None`` where it can't be known yet."""
    if audit.next is None:
        return None
    return {
        "action": audit.next.action,
        "reviews": audit.next.reviews,
        "words": audit.next.words,
        "outlook": [
            {
                "reviews": ahead.reviews,
                "errors_found": ahead.errors_found.value,
                "errors_found_ci": _interval(ahead.errors_found),
                "gain": ahead.gain.value if ahead.gain else None,
                "gain_ci": _interval(ahead.gain),
            }
            for ahead in audit.outlook
        ],
    }


def _slice_json(card: SliceCard) -> dict[str, Any]:
    found = card.slice
    return {
        "name": found.name,
        "conditions": [
            {"field": c.field, "op": c.op, "value": value}
            for c, value in zip(found.conditions, card.values or [c.value for c in found.conditions], strict=True)
        ],
        "size": found.size,
        "error_rate": found.error_rate,
        "ci": list(found.ci),
        "status": found.status,
        "recipe": found.recipe,
        "repair": found.repair or None,
        "proven": None if found.recipe is None else found.repair != "unproven",
        "proof": found.proof or None,
        "removable": found.removable,
        "p_value": found.p_value,
        "history": [{"iteration": n, "size": size, "error_rate": rate} for n, size, rate in found.history],
        "collect": collect_json(card.wanted, card.arrived, card.shot) if card.shot else None,
        "holdout": {
            "size": found.holdout_size,
            "error_rate": found.holdout_error_rate,
            "ci": list(found.holdout_ci) if found.holdout_ci else None,
            "error_rate_after": card.after.value if card.after else None,
        },
        "words": card.words,
    }


def collect_json(wanted: int, arrived: int, words: str) -> dict[str, Any]:
    """What is asked for of a slice that is being collected for."""
    return {"wanted": wanted, "arrived": arrived, "words": words}


def row_from_json(metrics: Mapping[str, Any]) -> Row:
    """The row of the table over iterations that ``metrics_json`` was written for."""
    holdout = metrics["holdout"]
    return Row(
        number=metrics["number"],
        labels_reviewed=metrics["labels_reviewed"],
        labels_changed=metrics["labels_changed"],
        accuracy=_estimate(holdout, "accuracy"),
        balanced_accuracy=_estimate(holdout, "balanced_accuracy"),
        weakest_slice=metrics["weakest_slice"],
        still_wrong=metrics["still_wrong"],
        otherwise=tuple((metrics.get("gain") or {}).get("otherwise", ())),
        size=holdout.get("size") or None,
    )


def _estimate(values: Mapping[str, Any], key: str) -> Estimate | None:
    if values.get(key) is None:
        return None
    low_high = values.get(f"{key}_ci")
    return Estimate(values[key], tuple(low_high) if low_high else None)


def _interval(estimate: Estimate | None) -> list[float] | None:
    return list(estimate.ci) if estimate is not None and estimate.ci is not None else None
