"""From issues and a budget to the batch that people are asked about: worst first, with a blind share and controls."""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Mapping, Sequence

from curation.config import ReviewSettings
from curation.records import Issue, Mode, QueueEntry

#: A contested image is asked again until it has so many opinions.
MOST_OPINIONS = 5


def build_batch(
    label_quality: Mapping[str, float],
    issues: Sequence[Issue],
    labels: Mapping[str, str | None],
    train_ids: Sequence[str],
    *,
    budget: int,
    settings: ReviewSettings,
    iteration: int,
    project_id: str,
    seed: int,
    asked: Mapping[str, int],
    contested: Sequence[str],
    secret: str,
    pool: Sequence[tuple[str, float]] = (),
) -> list[QueueEntry]:
    """At most ``budget`` entries, each image once, in the order of their position.

    Contested images come first, then flagged ones from the lowest ``label_quality`` on; ``settings.control_share`` of
    the budget are controls, drawn at random from what is not flagged; ``settings.blind_share`` of it are flagged images
    asked blind. What has an opinion (``asked``) is not asked again unless it is contested. Budget that is left goes to
    ``pool``, unlabeled images with the model's doubt, the most doubtful first. Shown entries come worst first; blind
    and control entries are mixed at random by ``seed`` and come after them.
    """
    rng = random.Random(f"{seed}:{iteration}")
    label_issues = {i.sample_id: i for i in issues if i.kind in ("label_conflict", "label")}
    candidates = set(train_ids)
    again = [s for s in contested if s in candidates and asked.get(s, 0) < MOST_OPINIONS][:budget]
    fresh = sorted(
        (s for s in label_issues if s in candidates and not asked.get(s) and s not in again),
        key=lambda s: (label_quality.get(s, 1.0), s),
    )
    unflagged = sorted(s for s in candidates - set(label_issues) if not asked.get(s) and s not in again)
    room = budget - len(again)
    controls = rng.sample(unflagged, min(round(settings.control_share * budget), room, len(unflagged)))
    flagged = fresh[: room - len(controls)]
    blind = set(rng.sample(flagged, min(round(settings.blind_share * budget), len(flagged))))
    unlabeled = [s for s, _ in pool if not asked.get(s)][: room - len(controls) - len(flagged)]
    shown = [s for s in flagged if s not in blind]
    hidden: list[tuple[str, Mode]] = [
        *((s, "blind") for s in again),
        *((s, "blind") for s in sorted(blind)),
        *((s, "control") for s in controls),
        *((s, "blind") for s in unlabeled),
    ]
    rng.shuffle(hidden)
    chosen: list[tuple[str, Mode]] = [*((s, "shown") for s in shown), *hidden]
    return [
        _entry(position, sample, mode, label_issues.get(sample), labels.get(sample), iteration, project_id, secret,
               settings.opinions, wave=asked.get(sample, 0))
        for position, (sample, mode) in enumerate(chosen)
    ]  # fmt: skip


def _entry(
    position: int,
    sample: str,
    mode: Mode,
    issue: Issue | None,
    given: str | None,
    iteration: int,
    project_id: str,
    secret: str,
    opinions: int,
    *,
    wave: int,
) -> QueueEntry:
    return QueueEntry(
        key=opaque_key(secret, project_id, str(iteration), sample, mode, str(wave)),
        sample_id=sample,
        iteration=iteration,
        position=position,
        mode=mode,
        given=given,
        suggested=issue.suggested if issue else None,
        reason=issue.reason if issue else "",
        related=issue.related if issue else (),
        opinions=opinions,
    )


def opaque_key(secret: str, *about: str) -> str:
    """A key that is the same for the same question and tells nobody without the secret what it is about."""
    return hmac.new(secret.encode(), "\x1f".join(about).encode(), hashlib.sha256).hexdigest()[:32]
