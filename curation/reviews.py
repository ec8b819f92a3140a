"""What reviewers say of samples: verdicts that decide at once, and causes of errors.

A reviewer sees everything (label, prediction, reason), so a verdict of theirs is not blind: it outranks the consensus
of labelers, closes what is still asked of them, and stays out of every estimate that rests on labelers' answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from curation.errors import DataError
from curation.ledger import Ledger, Undo, label_before
from curation.records import (
    AMBIGUOUS,
    BAD_IMAGE,
    OTHER,
    WITHDRAWN,
    CurrentLabel,
    Decision,
    LabelEvent,
    QueueEntry,
    Remark,
    Verdict,
)
from curation.words import counted

#: Causes that are offered before anybody has named one; every cause that was used is offered too.
CAUSES = (
    "label is wrong",
    "image fits two classes",
    "looks like the other class",
    "object too small",
    "poor image quality",
    "rare kind",
    "background misleads",
)
HOLDOUT_STAYS = "is in the holdout, whose labels only change by two blind verdicts that agree"


@dataclass(frozen=True)
class Judged:
    """What came of a reviewer's verdicts; sample ids, in the order they were given.

    ``left_alone`` says in words why a sample was.
    """

    given: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    left_alone: Mapping[str, str] | None = None

    def words(self, singular: str = "verdict", plural: str = "verdicts") -> str:
        """What happened, in a sentence or two for people.

        >>> Judged(("a", "b"), ("a",), {"c": "is in the holdout"}).words()
        '2 verdicts, 1 label changed. Left alone: 1 image (is in the holdout).'
        """
        said = f"{counted(len(self.given), singular, plural)}, "
        said += f"{counted(len(self.changed), 'label', 'labels')} changed."
        reasons = Counter((self.left_alone or {}).values())
        told = [f"{counted(count, 'image', 'images')} ({why})" for why, count in reasons.items()]
        return said + (f" Left alone: {', '.join(told)}." if told else "")


def standing(verdicts: Sequence[Verdict]) -> dict[str, Verdict]:
    """The reviewer's verdict that is in force on each sample that has one: the last that was not withdrawn."""
    return {sample_id: said[-1] for sample_id, said in not_withdrawn(verdicts).items()}


def not_withdrawn(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """What reviewers say of each sample, the last verdict of each; one that is in force, after others it overruled.

    In the order in which they were recorded: clocks are set back, and those of two reviewers differ.
    """
    latest: dict[str, Verdict] = {}
    for verdict in sorted((v for v in verdicts if v.mode == "review"), key=lambda v: v.id):
        latest[verdict.source] = verdict
    found: dict[str, list[Verdict]] = {}
    for verdict in sorted(latest.values(), key=lambda v: v.id):
        if verdict.answer != WITHDRAWN:
            found.setdefault(verdict.sample_id, []).append(verdict)
    return found


def open_entries(ledger: Ledger, iteration: int) -> list[QueueEntry]:
    """What is still to be asked in an iteration, of the holdout too: its queue without what a reviewer settled."""
    settled = standing(ledger.verdicts())
    return [entry for entry in ledger.queue(iteration, holdout=True) if entry.sample_id not in settled]


def last_given(verdicts: Sequence[Verdict], person: str) -> list[str]:
    """The samples of a reviewer's last verdicts, those given at one moment, as far as they stand."""
    mine = [v for v in standing(verdicts).values() if v.person == person]
    last = max(mine, key=lambda v: v.id, default=None)
    return [v.sample_id for v in mine if last is not None and v.at == last.at]


def in_classes_of_now(verdicts: Iterable[Verdict], merged: Mapping[str, str]) -> list[Verdict]:
    """The verdicts, those that name a ``merged`` class as ones for the class that it now belongs to, by id."""
    return [replace(v, answer=merged.get(v.answer, v.answer)) for v in verdicts]


def by_labelers(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts without those of reviewers."""
    return [v for v in verdicts if v.mode != "review"]


def count_outcomes(decisions: Iterable[Decision], verdicts: Iterable[Verdict]) -> Counter[str]:
    """How often each outcome was decided; ``other`` stands for ambiguous ones of which more people said just that.

    What more than one class fits asks for a sharper definition, what none fits for another class. ``verdicts`` hold
    those that the decisions cite.
    """
    answers = {v.id: v.answer for v in verdicts}

    def outcome(decision: Decision) -> str:
        said = Counter(answers.get(cited) for cited in decision.cites)
        other = decision.outcome == "ambiguous" and said[OTHER] > said[AMBIGUOUS]
        return OTHER if other else decision.outcome

    return Counter(map(outcome, decisions))


def decision_of(verdict: Verdict, now: CurrentLabel | None) -> Decision:
    """What a reviewer's verdict means for a label that is as ``now`` says."""
    why = "reviewer's verdict" + (f": {verdict.note}" if verdict.note else "")
    cites = (verdict.id,)
    if verdict.answer == BAD_IMAGE:
        return Decision(verdict.sample_id, "exclude", None, 1.0, cites, why)
    if verdict.answer == AMBIGUOUS:
        return Decision(verdict.sample_id, "ambiguous", None, 1.0, cites, why)
    if now is not None and now.class_id == verdict.answer and not now.excluded:
        return Decision(verdict.sample_id, "keep", verdict.answer, 1.0, cites, why)
    return Decision(verdict.sample_id, "change", verdict.answer, 1.0, cites, why)


def give_verdicts(
    ledger: Ledger,
    answers: Mapping[str, str],
    splits: Mapping[str, str],
    *,
    person: str,
    iteration: int,
    note: str = "",
    at: datetime | None = None,
) -> Judged:
    """Record a reviewer's verdicts and decide by them at once, all or nothing.

    ``answers`` maps sample ids to a class id, ``ambiguous`` or ``bad image``; ``splits`` sample ids to their split. A
    class that was merged counts for the one that it belongs to. Images of the holdout are left alone. Raises DataError
    for an unknown sample or answer, before anything is recorded.
    """
    allowed = (*ledger.classes().ids, AMBIGUOUS, BAD_IMAGE)
    for sample_id, answer in answers.items():
        if sample_id not in splits:
            raise DataError(
                f"no sample has the id '{sample_id}'; record the project anew with `curate review --rebuild`"
            )
        if answer not in allowed:
            raise DataError(f"'{answer}' is no answer; there are {list(allowed)}")
    left = {s: HOLDOUT_STAYS for s in answers if splits[s] == "holdout"}
    now = at or datetime.now(UTC)
    with ledger.at_once():
        merged = ledger.merged_classes()
        wanted = {s: merged.get(a, a) for s, a in answers.items() if s not in left}
        ledger.add_verdicts([
            Verdict(s, answer, person, now, "", source_of(person, s), "review", iteration, None, note)
            for s, answer in wanted.items()
        ])  # fmt: skip
        in_force, labels = standing(ledger.verdicts()), ledger.labels()
        decisions = [decision_of(in_force[s], labels.get(s)) for s in wanted]
        events = ledger.decide(decisions, who=person, iteration=iteration, at=at)
    return Judged(tuple(wanted), tuple(e.sample_id for e in events), left)


def take_back(
    ledger: Ledger, sample_ids: Sequence[str], *, person: str, iteration: int, why: str = "undone",
    at: datetime | None = None,
) -> Judged:  # fmt: skip
    """Take back what was last decided of each sample: a reviewer's verdict with its change, else the last change.

    All or nothing, and nothing is deleted: the verdict is withdrawn by another, the change by an undo. The label is
    then what the reviewer says whose verdict comes into force, else what it was before reviewers spoke; of a class that
    was merged since, the one that it belongs to now. Who takes back may be another than who gave the verdict.
    """
    with ledger.at_once():
        every, merged = ledger.verdicts(every=True), ledger.merged_classes()
        said, sources = not_withdrawn(every), {v.id: v.source for v in every if v.mode == "review"}
        wanted, now = list(dict.fromkeys(sample_ids)), at or datetime.now(UTC)
        events = _events_of(ledger, wanted)
        given: list[str] = []
        withdrawn: list[Verdict] = []
        undos: list[Undo] = []
        left: dict[str, str] = {}
        for sample_id in wanted:
            own, stay = events.get(sample_id, []), said.get(sample_id, [])
            verdict = stay.pop() if stay else None
            undo = _undo_of_reviewers(own, in_classes_of_now(stay, merged), sources, merged)
            if verdict is not None:
                withdrawn.append(_withdrawal(verdict, person, iteration, why, now))
            elif undo is None and (undo := _undo_of_last(own, sources, merged)) is None:
                left[sample_id] = "has nothing to take back"
                continue
            given.append(sample_id)
            undos += [undo] if undo is not None else []
        ledger.add_verdicts(withdrawn)
        ledger.take_back(undos, who=person, iteration=iteration, why=why, at=at)
    changed = tuple(u.sample_id for u in undos if (u.new, u.excluded) != _label_after(events[u.sample_id][-1]))
    return Judged(tuple(given), changed, left)


def _label_after(event: LabelEvent) -> tuple[str | None, bool]:
    return event.new, event.excluded


def _withdrawal(verdict: Verdict, person: str, iteration: int, why: str, now: datetime) -> Verdict:
    return Verdict(verdict.sample_id, WITHDRAWN, person, now, "", verdict.source, "review", iteration, None, why)


def _events_of(ledger: Ledger, sample_ids: Sequence[str]) -> dict[str, list[LabelEvent]]:
    found: dict[str, list[LabelEvent]] = {}
    for event in ledger.label_events(sample_ids[0] if len(sample_ids) == 1 else None):
        found.setdefault(event.sample_id, []).append(event)
    return found


def _undo_of_reviewers(
    events: Sequence[LabelEvent], stay: Sequence[Verdict], sources: Mapping[int, str], merged: Mapping[str, str]
) -> Undo | None:
    """What takes back the last decisions in a row by reviewers other than those whose verdicts ``stay``, oldest first.

    ``sources`` are those of all reviewers' verdicts, by their ids. ``None`` where there is no such decision.
    """
    stands = {v.source for v in stay}
    place = {e.id: n for n, e in enumerate(events)}
    n = before = len(events) - 1
    first = None
    while n >= 0:
        event = events[n]
        start = place[event.undoes] if event.undoes is not None else n  # an undo: what it took back is passed over
        if event.cites:
            if not all(cited in sources for cited in event.cites):
                break
            before = start - 1
            first = first if all(sources[cited] in stands for cited in event.cites) else start
        elif event.kind != "undo" and not _is_move(event, merged):
            break
        n = start - 1
    if first is None:
        return None
    new, excluded = label_before(events, before + 1, merged)
    for verdict in stay:
        if verdict.answer == BAD_IMAGE:
            excluded = True
        elif verdict.answer != AMBIGUOUS:
            new, excluded = verdict.answer, False
    cites = (stay[-1].id,) if stay else ()
    return Undo(events[0].sample_id, events[first].id, events[-1].new, new, excluded, cites)


def _undo_of_last(events: Sequence[LabelEvent], sources: Mapping[int, str], merged: Mapping[str, str]) -> Undo | None:
    """What takes back the last decision that is in force, or the last undo of one; ``None`` where there is none.

    Neither what moved a label when classes were merged nor what took a reviewer's decision back is one.
    """
    place = {e.id: n for n, e in enumerate(events)}
    n = len(events) - 1
    while n >= 0:
        undone = place[undoes] if (undoes := events[n].undoes) is not None else n
        if any(cited in sources for cited in events[undone].cites):
            n = undone - 1
        elif _is_move(events[n], merged):
            n -= 1
        else:
            break
    if n < 0 or events[n].kind == "import":
        return None
    return Undo(events[0].sample_id, events[n].id, events[-1].new, *label_before(events, n, merged))


def _is_move(event: LabelEvent, merged: Mapping[str, str]) -> bool:
    """Whether an event moved a label because its class was merged into another."""
    into = merged.get(event.old or "")
    moved = into is not None and into == merged.get(event.new or "", event.new)
    return moved and event.kind == "decision" and not event.cites


def live_rows(ledger: Ledger, sample_ids: Collection[str] | None = None) -> list[dict[str, str]]:
    """What stands of samples at this moment, of these or of all: ``sample_id, current, review, cause, note``.

    ``current`` is a class name or ''; ``review`` the standing verdict with its person; ``cause`` and ``note`` those of
    the last remark.
    """
    classes, labels, in_force = ledger.classes(), ledger.labels(), standing(ledger.verdicts())
    remarks = {r.sample_id: r for r in ledger.remarks() if r.kind == "error"}
    ids = [s.id for s in ledger.samples()] if sample_ids is None else list(sample_ids)
    rows = []
    for sample_id in ids:
        now, said, remark = labels.get(sample_id), in_force.get(sample_id), remarks.get(sample_id)
        rows.append(
            {
                "sample_id": sample_id,
                "current": classes.name(now.class_id if now else None),
                "review": f"{classes.name(said.answer)} ({said.person})" if said else "",
                "cause": remark.cause if remark else "",
                "note": remark.note if remark else "",
            }
        )
    return rows


def source_of(person: str, sample_id: str) -> str:
    """What a reviewer's verdicts on one sample have in common, so that a later one replaces an earlier one."""
    return f"review:{person}:{sample_id}"


def causes_offered(remarks: Sequence[Remark]) -> list[str]:
    """Causes to choose from: those that people used, most used first, then the ones to begin with.

    >>> at = datetime(2026, 1, 1, tzinfo=UTC)
    >>> causes_offered([Remark("s", "error", "glare", "", "ann", at, 1)])[:2]
    ['glare', 'label is wrong']
    """
    used = Counter(r.cause for r in remarks if r.kind == "error" and r.cause)
    return list(dict.fromkeys([*(cause for cause, _ in used.most_common()), *CAUSES]))


def count_causes(remarks: Sequence[Remark]) -> dict[int, dict[str, int]]:
    """How many samples have each cause, by iteration; a sample's last remark in an iteration counts.

    >>> at = datetime(2026, 1, 1, tzinfo=UTC)
    >>> count_causes([Remark("s", "error", "glare", "", "ann", at, 1), Remark("s", "error", "rare", "", "ben", at, 1)])
    {1: {'rare': 1}}
    """
    last = {(r.iteration, r.sample_id): r.cause for r in remarks if r.kind == "error" and r.cause}
    counts: dict[int, Counter[str]] = {}
    for (iteration, _), cause in last.items():
        counts.setdefault(iteration, Counter())[cause] += 1
    return {iteration: dict(counts[iteration].most_common()) for iteration in sorted(counts)}
