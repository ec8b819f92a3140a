"""The stages of an iteration, against the few small protocols of ``curation.parts``.

An iteration scores the labels out of sample and fills the review queue (``preparing``), asks people (``waiting``),
trains on what the labels then are (``training``), and accounts for it (``reporting``). Each stage writes its result
once into the iteration's folder; whatever stops the program, the next run goes on at the first stage without one.
Nothing here that steers (queue, recipes, weights) reads the label of a holdout row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from curation import holdout as checks
from curation.config import Settings, model_settings
from curation.copies import copy_weights, taught_network
from curation.costs import label_weights, positive_class
from curation.credit import Credit, TrainingSet, action_sets, credit_actions
from curation.errors import ProjectError, TrainingError
from curation.evidence import Said, gather, hold_back, learn
from curation.files import for_people
from curation.judging import Judging, class_of, labeled_holdout, trainable, unlabeled_pool
from curation.ledger import Ledger
from curation.parts import Account, Annotator, Parts, Scored
from curation.records import (
    OTHER,
    SKIPPED,
    WITHDRAWN,
    Augmentation,
    CurrentLabel,
    Decision,
    Issue,
    LabelEvent,
    Predictions,
    QueueEntry,
    Sample,
    Slice,
    State,
    Verdict,
)
from curation.reviews import by_labelers, count_outcomes, decision_of, in_classes_of_now, open_entries, standing
from curation.runs import ProjectPaths, decision_lock, finished, read_json, stage
from curation.tables import (
    issues_from_frame,
    issues_to_frame,
    predictions_from_frame,
    predictions_to_frame,
    read_frame,
    slices_from_frame,
    slices_to_frame,
    write_frame,
)

if TYPE_CHECKING:
    import pandas as pd

    from curation.tracking import Shot

Outcome = Literal["done", "waiting"]

#: Recipes are tried for so many of the weakest open slices, until one is repaired.
MOST_TRIED = 3
#: With fewer copies left to look at no further trial is begun.
ENOUGH_COPIES = 100
#: Share of the budget that images from the pool get which a slice's shot list asks for.
SHOT_SHARE = 0.2


class Loop:
    """Runs iterations of one project; every method may be called again after whatever stopped it."""

    def __init__(
        self,
        paths: ProjectPaths,
        settings: Settings,
        ledger: Ledger,
        samples: Sequence[Sample],
        parts: Parts,
        *,
        secret: str,
    ) -> None:
        self.paths = paths
        self.settings = settings
        self.ledger = ledger
        self.samples = samples
        self.by_id = {s.id: s for s in samples}
        self.parts = parts
        self.secret = secret

    @property
    def judging(self) -> Judging:
        """What judges labels, by the settings of now."""
        return Judging(self.parts, self.settings, self.ledger, self.paths.image_cache(self.settings.bits))

    # --- whole iterations

    def baseline(self) -> None:
        """Iteration 0: the model trained on the labels as they were given, the "before" of the first gain."""
        folder = self.paths.iteration(0)
        self._stage(folder, "train", lambda f: self._train(f, 0))
        self._stage(folder, "report", lambda f: self._report(f, 0))

    def advance(self, number: int, annotator: Callable[[], Annotator], *, close_batch: bool = False) -> Outcome:
        """Take iteration ``number`` as far as it goes: to its end, or to where it waits for people.

        ``annotator`` is called only when somebody has to be asked, so that a server can start meanwhile.
        """
        folder = self.paths.iteration(number)
        try:
            if finished(folder, "review") is None:
                self._set_state(number, "preparing", unless="waiting")
                self.prepare(number)
                if not self._ask(number, annotator(), close_batch):
                    return "waiting"
            self._set_state(number, "training")
            self._stage(folder, "train", lambda f: self._train(f, number))
            self._set_state(number, "reporting")
            self._stage(folder, "report", lambda f: self._report(f, number))
            self._set_state(number, "done")
        except Exception as error:
            self.ledger.set_state(number, "failed", str(error)[:500])
            raise
        return "done"

    def prepare(self, number: int) -> None:
        """Score the labels and fill the iteration's review queue."""
        self._stage(self.paths.iteration(number), "score", lambda f: self._score(f, number))

    def _stage(self, folder: Path, name: str, make: Callable[[Path], Mapping[str, Any]]) -> None:
        """Run a stage once; its manifest also notes how far the ledger's chain had come, and its hash there."""
        stage(folder, name, lambda f: {**make(f), "ledger": list(self.ledger.head())})

    def _set_state(self, number: int, state: State, *, unless: State | None = None) -> None:
        now = {i.number: i.state for i in self.ledger.iterations()}.get(number)
        if now != unless or unless is None:
            self.ledger.set_state(number, state)

    # --- scoring

    def _score(self, folder: Path, number: int) -> Mapping[str, Any]:
        from curation.queue import build_batch

        labels = self.ledger.labels()
        rows = trainable(self.samples, labels)
        properties = self.parts.measure(self.samples, self.parts.progress)
        scored = self.judging.score(rows, labels, properties, find_slices=True)
        leaks = self.judging.leaks(rows, labeled_holdout(self.samples, labels))
        slices = self._remember(number, scored, labels, properties)
        self._keep_looks(folder, slices, rows)
        by_hand = {r.sample_id for r in self.ledger.remarks() if r.kind == "sent" and r.iteration == number}
        entries = build_batch(
            scored.quality,
            scored.issues,
            {s.id: labels[s.id].class_id for s in rows},
            [s.id for s in rows],
            budget=self.settings.review.budget,
            settings=self.settings.review,
            iteration=number,
            project_id=self.ledger.about()["id"],
            seed=self.settings.seed,
            asked=self._asked() | dict.fromkeys(by_hand, 1),
            contested=[s for s in self._asked_again(number, labels, scored.predictions) if s not in by_hand],
            secret=self.secret,
            pool=self._uncertain_pool(number, labels),
            reserved=round(SHOT_SHARE * self.settings.review.budget) if self._wanted_pool(number, labels) else 0,
            weights=self._weights(scored, rows, labels),
        )
        write_frame(folder / "predictions.parquet", predictions_to_frame(scored.predictions))
        write_frame(folder / "quality.parquet", _quality_frame(scored.quality))
        write_frame(folder / "issues.parquet", issues_to_frame([*scored.issues, *leaks]))
        write_frame(folder / "slices.parquet", slices_to_frame(slices))
        write_frame(folder / "scored_slices.parquet", slices_to_frame(slices))
        self.ledger.add_queue(entries)
        kinds = Counter(i.kind for i in [*scored.issues, *leaks])
        return {"labeled": len(rows), "issues": dict(kinds), "queued": len(entries)}

    def _weights(self, scored: Scored, rows: Sequence[Sample], labels: Mapping[str, CurrentLabel]) -> dict[str, float]:
        """What each label counts in the queue beside its doubt: how rare the confusion is, and what it may cost."""
        from curation.queue import confusion_weights

        predictions, classes = scored.predictions.take([s.id for s in rows]), scored.predictions.class_ids
        columns = np.array([classes.index(class_of(labels, s)) for s in rows], dtype=np.int64)
        rare = dict(zip(predictions.sample_ids, confusion_weights(predictions.probabilities, columns), strict=True))
        positive = positive_class(self.settings.costs, self.ledger.classes(), self.ledger.merged_classes())
        costs = {} if positive is None else label_weights(scored.issues, self.settings.costs, positive)
        return {sample: float(weight) * costs.get(sample, 1.0) for sample, weight in rare.items()}

    def _asked(self) -> dict[str, int]:
        """How many people have judged each sample, without those whom its label, as it was given, comes from."""
        verdicts = self.ledger.verdicts()
        people: dict[str, set[str]] = {v.sample_id: set() for v in verdicts}
        for verdict in self.judging.judged(verdicts):
            people[verdict.sample_id].add(verdict.person)
        return {sample: len(who) for sample, who in people.items()}

    def _contested(self, number: int, labels: Mapping[str, CurrentLabel]) -> list[str]:
        verdicts = self.ledger.verdicts()
        settled = standing(verdicts)
        predictions = self.predictions(number - 1) if number > 1 else None
        decisions = self._decisions(self._not_held_out(by_labelers(verdicts)), labels, predictions)
        return [d.sample_id for d in decisions if d.outcome == "contested" and d.sample_id not in settled]

    def _asked_again(self, number: int, labels: Mapping[str, CurrentLabel], predictions: Predictions) -> list[str]:
        """Who is asked for a further opinion: contested samples, then those on which people and model are unsure."""
        from labeling.consensus import worth_asking

        settings, contested = self.settings.review, self._contested(number, labels)
        most = round(settings.second_opinions * settings.budget)
        if not most:
            return contested
        merged = self.ledger.merged_classes()
        said = self._not_held_out(by_labelers(self.ledger.verdicts()))
        said = in_classes_of_now(said, merged)
        probabilities = dict(zip(predictions.sample_ids, predictions.probabilities, strict=True))
        unsure = worth_asking(said, probabilities, self.ledger.classes(), most=settings.most_opinions)
        known = {*contested, *standing(self.ledger.verdicts())}
        return [*contested, *[s for s, _ in unsure if s not in known][:most]]

    def _uncertain_pool(self, number: int, labels: Mapping[str, CurrentLabel]) -> list[tuple[str, float]]:
        """Unlabeled samples, those first of which the last model is least sure.

        Those that it has not seen, since they came later, count as the usual one; none is left for the next iteration.
        """
        pool = [s.id for s in unlabeled_pool(self.samples, labels)]
        if not pool:
            return []
        predictions = self.model_predictions(number - 1)
        known = set(predictions.sample_ids)
        predictions = predictions.take([s for s in pool if s in known])
        told = (1 - predictions.probabilities.max(axis=1)).tolist()
        usual = float(np.median(told)) if told else 1.0
        doubt = dict.fromkeys(pool, usual) | dict(zip(predictions.sample_ids, told, strict=True))
        doubt |= {s: 2 - rank / (1 + len(doubt)) for rank, s in enumerate(self._wanted_pool(number, labels))}
        return sorted(doubt.items(), key=lambda pair: -pair[1])

    def _wanted_pool(self, number: int, labels: Mapping[str, CurrentLabel]) -> list[str]:
        """Unlabeled samples that the shot list of the last iteration asks for, taken in turn from its slices."""
        if number <= 1:
            return []
        wanted = [list(shot.pool[: shot.wanted - shot.arrived]) for shot in self.shots(number - 1, labels)]
        turns = zip_longest(*wanted)
        return list(dict.fromkeys(s for turn in turns for s in turn if s is not None))

    def _keep_looks(self, folder: Path, slices: Sequence[Slice], rows: Sequence[Sample]) -> None:
        """What slices ask for by looks, of all samples, so that it is the same in train, holdout and pool."""
        looks = self._looks_of(slices, rows, self.samples)
        write_frame(folder / "looks.parquet", looks.rename_axis("sample_id").reset_index())

    def _looks_of(self, slices: Sequence[Slice], rows: Sequence[Sample], samples: Sequence[Sample]) -> pd.DataFrame:
        """What conditions of slices on looks ask for among ``rows``, of samples, by sample id."""
        import pandas as pd

        from curation.slice_words import by_looks
        from curation.slices import looks_columns

        columns: dict[str, Any] = {}
        if any(by_looks(c.field) for found in slices for c in found.conditions):
            features = self.parts.encoder.features(samples, self.parts.progress)
            of_rows = self.parts.encoder.features(rows, self.parts.progress)
            columns |= looks_columns(slices, of_rows, [s.id for s in rows], features)
        return pd.DataFrame(columns, index=[s.id for s in samples])

    def looks(self, number: int) -> pd.DataFrame | None:
        """What slices of an iteration ask for by looks, by sample id; ``None`` where it kept nothing of it."""
        file = self.paths.iteration(number) / "looks.parquet"
        if not file.exists():
            return None
        kept = read_frame(file).set_index("sample_id")
        later = [s.id for s in self.samples if s.id not in kept.index]  # brought in, or put back, since then
        return kept.reindex([*kept.index, *later]) if later else kept

    def _remember(
        self, number: int, scored: Scored, labels: Mapping[str, CurrentLabel], properties: pd.DataFrame
    ) -> list[Slice]:
        """Slices keep the name, status and history that they had in the last iteration."""
        from curation.tracking import called_now, track

        rows = [self.by_id[s] for s in scored.predictions.sample_ids]
        given = [class_of(labels, s) for s in rows]
        wrong = np.array([p != g for p, g in zip(scored.predictions.predicted(), given, strict=True)], dtype=np.bool_)
        classes = self.ledger.classes()
        before = [called_now(s, classes) for s in self.slices(number - 1)] if number > 1 else []
        table = self.judging.slice_table(rows, properties, self._looks_of(before, rows, rows), asked=before)
        judged = self.predictions(number - 1).sample_ids if number > 1 else ()
        return track(scored.slices, before, table, wrong, [s.id for s in rows], given, number, judged)

    def shots(self, number: int, labels: Mapping[str, CurrentLabel]) -> list[Shot]:
        """What to collect for the slices of an iteration, with the nearest of the pool that nobody has judged."""
        from curation.slices import members
        from curation.tracking import nearest_unlabeled, shot_list

        slices, judged = self.slices(number), self._asked()
        pool = [s for s in unlabeled_pool(self.samples, labels) if not judged.get(s.id)]
        asked = [s for s in slices if s.status == "collecting" and s.wanted]
        near: dict[str, list[str]] = {}
        if pool and asked:
            rows = trainable(self.samples, labels)
            features = self.parts.encoder.features(rows, self.parts.progress)
            of_pool = self.parts.encoder.features(pool, self.parts.progress)
            looks = self.looks(number)
            table = self.judging.slice_table(pool, self.parts.measure(pool, self.parts.progress), looks, asked=asked)
            known = {str(column) for column in table.columns[table.notna().any()]}
            for found in asked:
                own = set(found.sample_ids)
                rule = replace(found, conditions=tuple(c for c in found.conditions if c.field in known))
                fulfils = members(rule, table, [""] * len(pool)) if rule.conditions else np.zeros(len(pool), np.bool_)
                inside = np.array([s.id in own for s in rows], dtype=np.bool_)
                near[found.name] = nearest_unlabeled(found, features, inside, of_pool, [s.id for s in pool], fulfils)
        return shot_list(slices, self.ledger.classes(), near)

    # --- asking people

    def _ask(self, number: int, annotator: Annotator, close_batch: bool) -> bool:
        """Send the batch, take what has come; true when the batch is complete or closed."""
        if self.ledger.queue(number, holdout=True):
            entries = self.open_entries(number)
            files = for_people(self.samples, self.settings, self.paths)  # of the batch, and of what is shown beside it
            annotator.send(entries, files, self.parts.progress)
        self.ledger.set_state(number, "waiting")
        missing = self.collect(number, annotator)
        if missing and not close_batch:
            return False
        self._stage(self.paths.iteration(number), "review", lambda f: self._decide(number))
        return True

    def collect(self, number: int, annotator: Annotator) -> int:
        """Take the answers that have come into the ledger; returns how many are still to come."""
        if not self.ledger.queue(number, holdout=True):
            return 0
        # Of all batches: answers to earlier ones may come late.
        every, known = self.ledger.queue(holdout=True), self.ledger.verdicts(holdout=True)
        found = annotator.collect(every, known)
        if not self.settings.review.timing:
            found = [replace(v, seconds=None) for v in found]
        self.ledger.add_verdicts(found)
        return annotator.waiting(self.open_entries(number))

    def open_entries(self, number: int) -> list[QueueEntry]:
        """What is still to be asked: the iteration's queue without what a reviewer settled, and without files gone."""
        return [entry for entry in open_entries(self.ledger, number) if entry.sample_id in self.by_id]

    def _decide(self, number: int) -> Mapping[str, Any]:
        entries = self.ledger.queue(number)
        asked = {e.sample_id for e in entries}
        predictions = self.predictions(number)
        with decision_lock(self.paths):
            everything = self.ledger.verdicts()
            settled = standing(everything)
            labels = self.ledger.labels()
            before = self._in_classes_of_now(self._labels_before(number))
            # What labelers say is judged as if no reviewer had spoken, so that estimates don't rest on reviewers.
            # Nor by what these answers have changed already, in a run that was stopped before it noted them.
            done = {e.sample_id for e in self._consensus_events(number)}
            judged = {s: label for s, label in labels.items() if s not in done}
            judged |= {s: before[s] for s in (*settled, *done) if s in before}
            said = self._not_held_out([v for v in everything if v.mode != "review"])
            verdicts = [v for v in said if v.sample_id in asked]
            decisions = self._decisions(verdicts, judged, predictions)
            late = self._late(number, said) - asked
            changed_since = self._decisions([v for v in said if v.sample_id in late], judged, predictions)
            in_force = [d for d in (*decisions, *changed_since) if d.sample_id not in settled]
            self.ledger.decide([*in_force, *self._checked_holdout(labels)], who="consensus", iteration=number)
            self._take_back(number, [v for v in said if v.sample_id not in settled])
        reviewed = {s: v for s, v in settled.items() if v.iteration == number}
        # Counted from the ledger, not from this call: a run that was stopped half-way counts the same.
        # What rests on no answer is the merging of classes, which is no work of this batch.
        events = [e for e in self.ledger.label_events() if e.iteration == number and e.kind == "decision" and e.cites]
        held = self._held
        events = [e for e in events if e.sample_id not in held]
        came_late = self._came_late(number, said)
        opinions = [v for v in verdicts if v.iteration == number and v.answer not in (SKIPPED, WITHDRAWN)] + came_late
        said_by_reviewers = in_classes_of_now(reviewed.values(), self.ledger.merged_classes())
        outcomes = count_outcomes((d for d in decisions if d.sample_id not in settled), verdicts)
        return {
            "asked": len(entries),
            "reviewed": len({v.sample_id for v in opinions} | set(reviewed)),
            "by_reviewers": len(reviewed),
            "opinions": len(opinions),
            "late": [v.id for v in came_late],
            "seconds": sum(v.seconds or 0.0 for v in opinions),
            "changed": len([e for e in events if not e.excluded and e.old is not None]),
            "labeled": len([e for e in events if not e.excluded and e.old is None]),
            "excluded": len([e for e in events if e.excluded]),
            "contested": outcomes["contested"],
            "ambiguous": outcomes["ambiguous"],
            "other": outcomes[OTHER],
            "decisions": [asdict(d) for d in decisions],
            "settled": [d.sample_id for d in decisions if d.sample_id in settled],
            "reviewers_decisions": [asdict(decision_of(v, before.get(v.sample_id))) for v in said_by_reviewers],
        }

    @property
    def _held(self) -> set[str]:
        return {s.id for s in self.samples if s.split == "holdout"}

    def _not_held_out(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Those on other images than the holdout's, whose labels only its checks change, not answers taken over."""
        held = self._held
        return [v for v in verdicts if v.sample_id not in held]

    def _checked_holdout(self, labels: Mapping[str, CurrentLabel]) -> list[Decision]:
        """The labels of the holdout that people who were shown none have found wrong."""
        merged = self.ledger.merged_classes()
        verdicts = self.ledger.holdout_verdicts()
        verdicts = in_classes_of_now(verdicts, merged)
        return checks.decisions(verdicts, {s: now.class_id for s, now in labels.items()})

    def _consensus_events(self, number: int) -> list[LabelEvent]:
        """What the consensus of labelers changed in an iteration."""
        events = self.ledger.label_events()
        return [e for e in events if e.iteration == number and e.kind == "decision" and e.who == "consensus"]

    def _late(self, number: int, verdicts: Sequence[Verdict]) -> set[str]:
        """Samples of earlier batches with an answer that no decision took in.

        It came, or was changed, after its batch was decided, or a reviewer's verdict had settled the sample then.
        """
        weighed: set[int] = set()
        for review in self._reviews_before(number):
            by_reviewers = (d["sample_id"] for d in review.get("reviewers_decisions", ()))
            settled = set(review.get("settled", by_reviewers))  # earlier versions note reviewers' decisions alone
            taken_in = [d for d in review.get("decisions", ()) if d["sample_id"] not in settled]
            weighed.update(verdict for d in taken_in for verdict in d["cites"])
        opinions = [v for v in verdicts if v.iteration < number and v.answer not in (SKIPPED, WITHDRAWN)]
        return {v.sample_id for v in opinions if v.id not in weighed}

    def _reviews_before(self, number: int) -> list[Mapping[str, Any]]:
        """What was noted of the decided batches of earlier iterations, in their order."""
        return [finished(self.paths.iteration(n), "review") or {} for n in range(1, number)]

    def _came_late(self, number: int, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Answers to questions of earlier batches that none of these has counted, nor a later one as late."""
        reviews = self._reviews_before(number)
        counted = {verdict for review in reviews for d in review.get("decisions", ()) for verdict in d["cites"]}
        counted |= {verdict for review in reviews for verdict in review.get("late", ())}
        asked = {e.key for e in self.ledger.queue() if e.iteration < number}
        return [v for v in verdicts if v.key in asked and v.id not in counted and v.answer not in (SKIPPED, WITHDRAWN)]

    def _take_back(self, number: int, verdicts: Sequence[Verdict]) -> None:
        """Undo the decisions in force all of whose answers people have withdrawn since; classes stay merged."""
        standing = {v.sample_id for v in verdicts if v.answer not in (SKIPPED, WITHDRAWN)}
        withdrawn = {v.sample_id for v in verdicts if v.answer == WITHDRAWN} - standing
        events: dict[str, list[LabelEvent]] = {}
        for event in self.ledger.label_events():
            if event.sample_id in withdrawn:
                events.setdefault(event.sample_id, []).append(event)
        for sample_id, own in events.items():
            if (first := _first_of_answers(own)) is None:
                continue
            why = "the answers that the decision rests on were withdrawn"
            self.ledger.undo(sample_id, who="consensus", iteration=number, why=why, since=first.id)

    def _decisions(
        self, verdicts: Sequence[Verdict], labels: Mapping[str, CurrentLabel], predictions: Predictions | None
    ) -> list[Decision]:
        from labeling.consensus import decide

        merged = self.ledger.merged_classes()
        verdicts = in_classes_of_now(verdicts, merged)
        given = {v.sample_id: labels[v.sample_id].class_id if v.sample_id in labels else None for v in verdicts}
        probabilities = None
        if predictions is not None:
            known = set(predictions.sample_ids)
            wanted = [s for s in given if s in known]
            probabilities = dict(zip(wanted, predictions.take(wanted).probabilities, strict=True))
        decisions = decide(verdicts, given, probabilities, self.ledger.classes())
        if predictions is None or not any(d.outcome == "change" for d in decisions):
            return decisions
        said = self.said(predictions)
        answered = Counter(sample for sample, _ in {(v.sample_id, v.key) for v in verdicts})
        return hold_back(decisions, said, learn(said.answers, draws=0), answered)

    def said(self, predictions: Predictions, until: int | None = None) -> Said:
        """What labelers have said, in all iterations (``until`` one), of the labels that ``predictions`` judge."""
        from labeling.consensus import opinions

        classes = self.ledger.classes()
        numbers = [i.number for i in self.ledger.iterations() if until is None or i.number <= until]
        merged = self.ledger.merged_classes()
        entries = [e for number in numbers for e in self.ledger.queue(number)]
        entries = [replace(e, given=merged.get(e.given or "", e.given)) for e in entries]
        verdicts = [v for v in by_labelers(self.ledger.verdicts()) if until is None or v.iteration <= until]
        verdicts = in_classes_of_now(verdicts, merged)
        return gather(entries, opinions(verdicts, classes), predictions, classes)

    # --- training

    def _train(self, folder: Path, number: int) -> Mapping[str, Any]:
        labels = self.ledger.labels(as_of=number)  # reviewers may have gone on since, for the next iteration
        rows = trainable(self.samples, labels)
        classes = self.ledger.classes()
        if len({class_of(labels, s) for s in rows}) < 2:
            raise TrainingError("fewer than two classes are left to train on; undo exclusions or add labeled images")
        augmentations = self._augmentations(folder, number, labels)
        model = self.parts.trainer.train(
            rows,
            np.array([classes.index(class_of(labels, s)) for s in rows], dtype=np.int64),
            classes.ids,
            seed=self.settings.seed,
            augmentations=augmentations,
            checkpoint=folder / "checkpoint",
            progress=self.parts.progress,
        )
        model.save(folder / "model.safetensors")
        trained = {s.id for s in rows}
        unseen = [s for s in self.samples if s.split == "holdout" or s.id not in trained]
        write_frame(
            folder / "model_predictions.parquet", predictions_to_frame(model.predict(unseen, self.parts.progress))
        )
        return {
            "trained_on": len(rows),
            "seed": self.settings.seed,
            "settings": self._model_settings(folder / "model.safetensors"),
            "words": model.words,
            "recipes": [a.name for a in augmentations],
            "credits": [asdict(c) for c in self._credits(number, labels, augmentations)] if number else [],
        }

    def _model_settings(self, file: Path) -> dict[str, Any]:
        """What the model in a file hangs on beside its data; weights by what they are, since their file may move.

        The way that it went, too: where the images set apart call for the other one, what was gained is not the labels'
        alone.
        """
        from curation.ways import trained_how

        known = {"backbone.weights": self.parts.identity} if self.parts.identity else {}
        return {**model_settings(self.settings), **known, **trained_how(file)}

    def _credits(
        self, number: int, labels: Mapping[str, CurrentLabel], augmentations: Sequence[Augmentation]
    ) -> tuple[Credit, ...]:
        """What relabeling, exclusions, new and imported labels and augmentation each gained, by heads on features."""
        from curation.scaling import scale

        earlier, labels = (self._in_classes_of_now(of) for of in (self.ledger.labels(as_of=number - 1), labels))
        held = labeled_holdout(self.samples, labels)
        was, now = ({s.id for s in trainable(self.samples, known)} for known in (earlier, labels))
        rows = [s for s in self.samples if s.id in was | now]
        if not held or not was:
            return ()
        classes = self.ledger.classes()
        before = np.array([classes.index(class_of(earlier, s)) if s.id in was else -1 for s in rows], dtype=np.int64)
        after = np.array([classes.index(class_of(labels, s)) if s.id in now else -1 for s in rows], dtype=np.int64)
        everyone = [*rows, *held]
        copies: npt.NDArray[np.float32] | None = None
        copied: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        counts = copy_weights(rows, augmentations)
        network = taught_network(augmentations)
        taught: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
        if network is not None and self.parts.taught is not None:  # looked at alike by both networks
            features = self.parts.taught(None, everyone, self.parts.progress)
            seen = scale(self.parts.taught(network, everyone, self.parts.progress))
            taught = seen[: len(rows)], seen[len(rows) :]
        else:
            features = self.parts.encoder.features(everyone, self.parts.progress)
            if self.parts.copies is not None and augmentations:
                copies, copied = self.parts.copies(rows, augmentations, self.settings.seed)
        together = scale(features if copies is None or not len(copied) else np.concatenate([features, copies]))
        imported = self._imported(number)
        brought = np.array([s.id in imported for s in rows], dtype=np.bool_)
        base, actions = action_sets(
            together[: len(rows)], before, after, together[len(features) :], copied, counts, brought=brought,
            taught=taught,
        )  # fmt: skip
        measured = TrainingSet(
            together[len(rows) : len(features)],
            np.array([classes.index(class_of(labels, s)) for s in held], dtype=np.int64),
        )
        return credit_actions(base, actions, measured, len(classes), minutes=self._minutes(number, was - now))

    def _minutes(self, number: int, gone: Collection[str]) -> dict[str, float]:
        """Minutes that labelers spent on images without a label (new labels), on those that are ``gone`` (exclusions),
        and on the others, changed or kept (relabeling): none counts for two actions. Answers that came late are there.
        """
        late = set((finished(self.paths.iteration(number), "review") or {}).get("late", ()))
        verdicts = by_labelers(self.ledger.verdicts())
        here = {v.sample_id for v in verdicts if v.id in late}
        entries = [e for e in self.ledger.queue() if e.iteration == number or e.sample_id in here]
        given = {e.sample_id: e.given for e in entries if e.iteration <= number}
        spent = {"relabeling": 0.0, "exclusions": 0.0, "new labels": 0.0}
        for verdict in verdicts:
            if (verdict.iteration == number or verdict.id in late) and verdict.sample_id in given:
                action = "exclusions" if verdict.sample_id in gone else "relabeling"
                spent["new labels" if given[verdict.sample_id] is None else action] += (verdict.seconds or 0.0) / 60
        return {**spent, "all": sum(spent.values())}

    def _augmentations(self, folder: Path, number: int, labels: Mapping[str, CurrentLabel]) -> list[Augmentation]:
        """Copies for the first of the weakest open slices that can be repaired; none before the first iteration.

        Begins with the slices as ``score`` has left them and people have marked them since, so that a training that
        was stopped tries the same again.
        """
        if number == 0 or self.settings.slices.copies == 0:
            return []
        from curation.tracking import mark, review_first

        scored = folder / "scored_slices.parquet"
        if not scored.exists():  # scored by a version without it
            write_frame(scored, slices_to_frame(self.slices(number)))
        slices = slices_from_frame(read_frame(scored))
        rows = trainable(self.samples, labels)
        measured = self.parts.measure(rows, self.parts.progress)
        properties = self.judging.slice_table(rows, measured, self.looks(number), asked=slices)
        ids, classes = [s.id for s in rows], [class_of(labels, s) for s in rows]
        here, found = set(ids), list[Augmentation]()
        judged = {v.sample_id for v in self.judging.judged(self.ledger.verdicts())}
        flagged = {i.sample_id for i in self.issues(number) if i.kind == "label"} - judged
        tried, left = 0, self.settings.slices.copies_looked_at(len(rows))
        unlabeled = unlabeled_pool(self.samples, labels)
        wanted = ("open", "collecting") if self.settings.slices.trial else ("open",)
        for place, weak in [(p, s) for p, s in enumerate(slices) if s.status in wanted]:
            now = replace(weak, sample_ids=tuple(s for s in weak.sample_ids if s in here))
            if weak.status == "open" and (suspect := review_first(now, flagged)):
                slices[place] = replace(suspect, sample_ids=weak.sample_ids)
            elif now.sample_ids and not found and tried < MOST_TRIED and left >= ENOUGH_COPIES:
                repaired = self.parts.repair(now, properties, ids, classes, folder, left, unlabeled)
                tried, left = tried + 1, left - repaired.looked_at
                aimed = replace(repaired.slice, sample_ids=weak.sample_ids)
                slices[place] = mark(aimed, "collecting") if aimed.repair == "collect" else aimed
                found = [repaired.copies] if repaired.copies.sample_ids else []
        write_frame(folder / "slices.parquet", slices_to_frame(slices))
        return found

    # --- reporting

    def _report(self, folder: Path, number: int) -> Mapping[str, Any]:
        account = self.account(number)
        told: dict[str, str] = {}
        for reporter in self.parts.reporters:
            told |= reporter.record(account)
        return {"told": told}

    def account(self, number: int) -> Account:
        """Everything that an iteration left behind."""
        folder = self.paths.iteration(number)
        scored = None
        if number > 0:
            quality = self._frame(number, "quality")
            scored = Scored(
                self.predictions(number),
                dict(zip(quality["sample_id"], quality["quality"], strict=True)),
                tuple(i for i in self.issues(number) if i.sample_id in self.by_id),
                tuple(self._without_gone(s) for s in self.slices(number)),
            )
        before, after = self.model_predictions(number - 1) if number > 0 else None, self.model_predictions(number)
        measured = set(after.sample_ids) & set((before or after).sample_ids)
        later = {e.sample_id for e in self.ledger.label_events() if e.kind == "import" and e.iteration > number}
        samples = [s for s in self.samples if s.split == "pool" or s.id not in later]
        samples = [s for s in samples if s.split != "holdout" or s.id in measured]  # both models, or neither
        return Account(
            number=number,
            folder=folder,
            samples=samples,
            classes=self.ledger.classes(),
            before=self._in_classes_of_now(self.as_given(self._labels_before(number))),
            after=self._in_classes_of_now(self.as_given(self.ledger.labels(as_of=number))),
            scored=scored,
            review=finished(folder, "review") or {},
            model_before=before,
            model_after=after,
            properties=self.parts.measure(samples, self.parts.progress),
            trained=finished(folder, "train") or {},
            trained_before=(finished(self.paths.iteration(number - 1), "train") or {}) if number > 0 else {},
            said=self.said(scored.predictions, number) if scored else None,
            verdicts=[v for v in by_labelers(self.ledger.verdicts()) if v.iteration == number],
            looks=self.looks(number),
            shots=tuple(self.shots(number, self.ledger.labels(as_of=number))) if number > 0 else (),
            features=lambda: self.parts.encoder.features(samples, self.parts.progress),
            checked=self._holdout_check(number),
            merged=self.ledger.merged_classes(),
            imported=frozenset(self._imported(number)),
        )

    def _imported(self, number: int) -> dict[str, CurrentLabel]:
        """The labels that came with images, or for images of the pool, for an iteration, as they were given."""
        events = (e for e in self.ledger.label_events() if e.kind == "import" and e.iteration == number)
        return {e.sample_id: CurrentLabel(e.sample_id, e.new, e.excluded, e.id) for e in events}

    def _labels_before(self, number: int) -> dict[str, CurrentLabel]:
        """What people began with: the labels after the iteration before, and those that were imported since."""
        return {**self._imported(number), **self.ledger.labels(as_of=max(number - 1, 0))}

    def _holdout_check(self, number: int) -> checks.Check | None:
        """What people found in the holdout's labels up to an iteration; ``None`` before any check was asked for."""
        if not self.paths.holdout_flags.exists():
            return None
        labels = self._in_classes_of_now(self.ledger.labels(as_of=number))
        verdicts = [v for v in self.ledger.holdout_verdicts() if v.iteration <= number]
        verdicts = in_classes_of_now(verdicts, self.ledger.merged_classes())
        now = checks.as_agreed(labels, verdicts, [e for e in self.ledger.label_events() if e.iteration <= number])
        rows = [s.id for s in labeled_holdout(self.samples, now)]
        flagged = set(read_json(self.paths.holdout_flags))
        return checks.check_rows(rows, flagged, verdicts, self.as_given(labels), now, seed=self.settings.seed)

    def as_given(self, labels: Mapping[str, CurrentLabel]) -> dict[str, CurrentLabel]:
        """Labels, those of the holdout as they were before people checked them: figures over time go by these."""
        return checks.as_given(
            labels,
            self.ledger.label_events(),
            self.ledger.verdicts(holdout=True, every=True),
            self.ledger.merged_classes(),
        )

    def _in_classes_of_now(self, labels: Mapping[str, CurrentLabel]) -> dict[str, CurrentLabel]:
        """Labels of classes that were merged since as those of what they now belong to: nobody changed these labels."""
        merged = self.ledger.merged_classes()
        return {s: replace(now, class_id=merged.get(now.class_id or "", now.class_id)) for s, now in labels.items()}

    def _without_gone(self, found: Slice) -> Slice:
        """A slice without the samples whose files are gone since it was found."""
        return replace(found, sample_ids=tuple(s for s in found.sample_ids if s in self.by_id))

    # --- what earlier stages left

    def predictions(self, number: int) -> Predictions:
        """Out-of-sample predictions of the labeled rows in an iteration, over the classes that there are now."""
        return self._told(number, "predictions")

    def model_predictions(self, number: int) -> Predictions:
        """What the iteration's model says of rows that it was not trained on (holdout, pool, excluded); as above."""
        return self._told(number, "model_predictions")

    def _told(self, number: int, name: str) -> Predictions:
        found = predictions_from_frame(self._frame(number, name))
        return found.over(self.ledger.classes().ids, self.ledger.merged_classes())

    def issues(self, number: int) -> list[Issue]:
        """The iteration's issues, worst first."""
        return issues_from_frame(self._frame(number, "issues"))

    def slices(self, number: int) -> list[Slice]:
        """The iteration's weak slices, weakest first."""
        return slices_from_frame(self._frame(number, "slices"))

    def _frame(self, number: int, name: str) -> pd.DataFrame:
        file = self.paths.iteration(number) / f"{name}.parquet"
        if not file.exists():
            raise ProjectError(f"{file} is missing; run `curate run` to make it again")
        return read_frame(file)


def _first_of_answers(events: Sequence[LabelEvent]) -> LabelEvent | None:
    """The first of a sample's last decisions in a row that labelers' answers led to, or the merging of classes."""
    first = None
    for event in reversed(events):
        if event.kind != "decision" or (event.cites and event.who != "consensus"):
            break
        first = event if event.cites else first
    return first


def _quality_frame(quality: Mapping[str, float]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"sample_id": list(quality), "quality": list(quality.values())})
