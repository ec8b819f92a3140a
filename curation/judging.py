"""The labels of a project judged by predictions that have not seen them: quality, issues, weak slices, leaks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curation.allocator import give_back_memory
from curation.config import Settings
from curation.errors import ProjectError
from curation.kept import Kept
from curation.ledger import Ledger
from curation.parts import Parts, Scored
from curation.records import (
    SKIPPED,
    WITHDRAWN,
    CurrentLabel,
    Issue,
    Predictions,
    Progress,
    Sample,
    Slice,
    Verdict,
)
from curation.reviews import by_labelers, standing

if TYPE_CHECKING:
    import pandas as pd

    from curation.neighbours import Pair
    from curation.regression import Inputs
    from curation.scoring import OutOfSample


@dataclass(frozen=True, eq=False)
class Judging:
    """Judges labels with the loop's parts; ``cache`` keeps models that were trained without a fold."""

    parts: Parts
    settings: Settings
    ledger: Ledger
    cache: Path

    def score(
        self,
        rows: Sequence[Sample],
        labels: Mapping[str, CurrentLabel],
        properties: pd.DataFrame,
        *,
        find_slices: bool,
        predictions: Predictions | None = None,
    ) -> Scored:
        """Judge the labels of ``rows`` by predictions that have not seen them: ours, or those given."""
        from curation import flagging, slices
        from curation import issues as issue_finding
        from curation.scoring import label_quality

        classes = self.ledger.classes()
        given = [class_of(labels, s) for s in rows]
        columns = np.array([classes.index(c) for c in given], dtype=np.int64)
        features = self.parts.encoder.features(rows, self.parts.progress)
        ids = tuple(s.id for s in rows)
        pairs = near_duplicates(self.parts.kept, rows, lambda: features)
        settled = self.settled(ids, given)
        groups = None  # what somebody else's model did not see together with a sample is not known
        if predictions is None:
            groups = groups_of(rows, pairs)
            out = self._out_of_sample(rows, columns, classes.ids, groups, features, settled)
            predictions = Predictions(ids, classes.ids, out.probabilities, out.folds)
        predictions = predictions.take(ids)
        judged = flagging.judge_labels(predictions.probabilities, columns, groups)
        quality = dict(zip(ids, judged.quality.tolist(), strict=True))
        found = issue_finding.all_issues(
            rows,
            given,
            predictions,
            classes,
            features,
            properties,
            settings=self.settings.detection,
            pairs=pairs,
            judged=judged,
            brought=self._brought({s for s, known in zip(ids, settled, strict=True) if not known}),
        )
        weak: list[Slice] = []
        if find_slices:
            wrong = predictions.probabilities.argmax(axis=1) != columns
            weak = slices.find_slices(
                self.slice_table(rows, properties), wrong, ids,
                settings=self.settings.slices, classes=classes, labels=given, looks=features,
                paths=[s.path for s in rows], doubts=1 - label_quality(predictions.probabilities, columns),
            )  # fmt: skip
        return Scored(predictions, quality, tuple(found), tuple(weak))

    def score_all(
        self, samples: Sequence[Sample], labels: Mapping[str, CurrentLabel]
    ) -> tuple[dict[str, float], list[Issue]]:
        """Quality by sample id, and issues, of all labels; those of train rows come from train rows alone."""
        train, holdout = trainable(samples, labels), labeled_holdout(samples, labels)
        properties = self.parts.measure([*train, *holdout], self.parts.progress)
        scored = self.score(train, labels, properties, find_slices=False)
        quality, issues = dict(scored.quality), list(scored.issues)
        if holdout:
            # Holdout rows are judged with the train rows' help; nothing of it flows back to the queue.
            both = self.score([*train, *holdout], labels, properties, find_slices=False)
            held = {s.id for s in holdout}
            quality |= {s: q for s, q in both.quality.items() if s in held}
            issues += [i for i in both.issues if i.sample_id in held]
            issues += self.leaks(train, holdout)
        return quality, issues

    def leaks(self, train: Sequence[Sample], holdout: Sequence[Sample]) -> list[Issue]:
        """Holdout images that are all but in train, where duplicates are looked for at all."""
        from curation.issues import find_leaks

        if not holdout or not self.settings.detection.duplicates:
            return []
        both = [*train, *holdout]
        features = partial(self.parts.encoder.features, both, self.parts.progress)
        return find_leaks(both, near_duplicates(self.parts.kept, both, features))

    def _brought(self, unsettled: set[str]) -> dict[str, tuple[str, ...]]:
        """The classes that one picture came with, by sample id, where they are several and people left it at that."""
        merged = self.ledger.merged_classes()
        found = {s: tuple(dict.fromkeys(merged.get(c, c) for c in given)) for s, given in self.ledger.brought().items()}
        return {s: given for s, given in found.items() if len(given) > 1 and s in unsettled}

    def settled(self, sample_ids: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which labels a reviewer gave, or more people have named than anything else, shape (samples,)."""
        merged, verdicts = self.ledger.merged_classes(), self.ledger.verdicts()
        named: dict[str, Counter[str]] = {}
        for verdict in by_labelers(self.judged(verdicts)):
            named.setdefault(verdict.sample_id, Counter())[merged.get(verdict.answer, verdict.answer)] += 1
        for sample_id, verdict in standing(verdicts).items():  # a reviewer outranks everybody
            named[sample_id] = Counter([merged.get(verdict.answer, verdict.answer)])
        said = [(named.get(s, Counter()), label) for s, label in zip(sample_ids, labels, strict=True)]
        return np.array([2 * by[label] > by.total() for by, label in said], dtype=bool)

    def judged(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Those of these verdicts that say something of a label, without what gave it."""
        adopted = {v.id for v in verdicts if v.key.startswith("adopted:")}
        given = self.ledger.labels(as_of=0) if adopted else {}  # all labels there are: read only where they matter
        gave = {v.id for v in verdicts if v.id in adopted and v.sample_id in given
                and v.answer == given[v.sample_id].class_id}  # fmt: skip
        return [v for v in verdicts if v.answer not in (SKIPPED, WITHDRAWN) and v.id not in gave]

    def slice_table(
        self, samples: Sequence[Sample], properties: pd.DataFrame, looks: pd.DataFrame | None = None,
        asked: Sequence[Slice] = (),
    ) -> pd.DataFrame:  # fmt: skip
        """What slices of these samples can speak of, one row a sample: metadata, properties, and who looks alike.

        What ``asked`` slices speak of is always there.
        """
        known = properties if looks is None else properties.join(looks)
        return slice_table(samples, known, self.settings.slices.ignore, asked)

    def _out_of_sample(
        self,
        rows: Sequence[Sample],
        columns: npt.NDArray[np.int64],
        class_ids: tuple[str, ...],
        groups: npt.NDArray[np.int64],
        features: npt.NDArray[np.float32],
        settled: npt.NDArray[np.bool_],
    ) -> OutOfSample:
        """Predictions of ours that have not seen the labels they judge, by the scorer that the settings name."""
        from curation import crossval, streaming
        from curation.regression import kept_inputs

        seed, folds, progress = self.settings.seed, self.settings.detection.folds, self.parts.progress
        engine = self.parts.engine
        if self.settings.detection.scorer == "training":
            detection = self.settings.detection
            looks = self.parts.identity, self.settings.backbone, detection.views, detection.rotation_invariant
            made_of = hashlib.sha256(repr((self.settings.training, *looks)).encode()).hexdigest()[:12]
            return crossval.cross_validate(
                self.parts.trainer, rows, columns, class_ids, groups=groups, folds=folds, seed=seed,
                folder=self.cache / "folds" / made_of, progress=progress, engine=engine,
            )  # fmt: skip
        judge = self.parts.judge
        widths = judge.widths if judge else ()

        if len(rows) > streaming.FROM:
            return streaming.score_streaming(
                judge.stored(rows, progress) if judge else features, columns, len(class_ids), groups=groups, seed=seed,
                settled=settled, widths=widths, progress=progress, engine=engine,
            )  # fmt: skip

        def judged() -> npt.NDArray[np.float32]:
            return judge.features(rows, progress) if judge else features

        ids = [s.id for s in rows]
        inputs = kept_inputs(
            self.parts.kept, ids, judged, len(class_ids), groups, seed=seed, widths=widths, overwrite=bool(judge)
        )
        try:
            return next(engine.map(_score_labels, inputs, [(columns, folds, settled)]))
        finally:
            give_back_memory()


def near_duplicates(
    kept: Kept, samples: Sequence[Sample], features: Callable[[], npt.NDArray[np.float32]]
) -> Sequence[Pair]:
    """Pairs of rows of ``samples`` that look like one picture (``near_duplicate_pairs``); ``features`` reads theirs.

    Of a crowd that looks alike each image has its likest in each split: none that is in train as well is missed.
    """
    from curation.neighbours import near_duplicate_pairs

    splits = tuple(s.split for s in samples)
    made_from = tuple(s.id for s in samples), splits
    return kept.of("near-duplicates", made_from, lambda: near_duplicate_pairs(features(), of=np.array(splits)))


def groups_of(samples: Sequence[Sample], pairs: Sequence[Pair]) -> npt.NDArray[np.int64]:
    """Group numbers, (samples,): of one are what shares a user's group, and near-duplicates, of which these are."""
    from curation.neighbours import join_groups

    return joint_groups(samples, join_groups(len(samples), [pair[:2] for pair in pairs]))


def trainable(samples: Sequence[Sample], labels: Mapping[str, CurrentLabel]) -> list[Sample]:
    """Samples to train on and to judge: labeled, not excluded, in their order; none of the holdout, nor of the pool
    where its group is in the holdout.
    """
    return [
        s
        for s in _outside_holdout(samples)
        if (now := labels.get(s.id)) is not None and now.class_id and not now.excluded
    ]


def unlabeled_pool(samples: Sequence[Sample], labels: Mapping[str, CurrentLabel]) -> list[Sample]:
    """Samples of the pool without a label that people may be asked about: none whose group is in the holdout."""
    return [s for s in _outside_holdout(samples) if s.split == "pool" and s.id not in labels]


def _outside_holdout(samples: Sequence[Sample]) -> list[Sample]:
    held = {s.group for s in samples if s.group and s.split == "holdout"}
    return [s for s in samples if s.split == "train" or (s.split == "pool" and s.group not in held)]


def labeled_holdout(samples: Sequence[Sample], labels: Mapping[str, CurrentLabel]) -> list[Sample]:
    """Holdout samples with a label, in their order."""
    return [s for s in samples if s.split == "holdout" and (now := labels.get(s.id)) is not None and now.class_id]


def joint_groups(samples: Sequence[Sample], duplicates: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Group numbers, shape (samples,), that put together what shares a user's group or is a near-duplicate.

    >>> from pathlib import Path
    >>> a, b, c = (Sample(i, i, Path(i), "train", group=g) for i, g in (("a", "x"), ("b", None), ("c", "x")))
    >>> joint_groups([a, b, c], np.array([0, 1, 2])).tolist()
    [0, 1, 0]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    names = {name: number for number, name in enumerate(sorted({s.group for s in samples if s.group}))}
    _, duplicate_numbers = np.unique(duplicates, return_inverse=True)
    count = len(samples)
    edges = [(row, count + int(number)) for row, number in enumerate(duplicate_numbers)]
    edges += [(row, 2 * count + names[s.group]) for row, s in enumerate(samples) if s.group]
    size = 2 * count + len(names)
    left, right = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(edges)), (left, right)), shape=(size, size))
    component = connected_components(graph, directed=False)[1][:count]
    _, first = np.unique(component, return_index=True)
    order = {component[row]: number for number, row in enumerate(sorted(first))}
    return np.array([order[c] for c in component], dtype=np.int64)


def slice_table(
    samples: Sequence[Sample], properties: pd.DataFrame, ignore: Sequence[str] = (), asked: Sequence[Slice] = ()
) -> pd.DataFrame:
    """Metadata and measured properties, one row a sample in order; columns that name single samples are left out.

    A metadata column is called as in ``column_name``; ``ignore`` may name it either way. What ``asked`` slices speak of
    is always there, ignored or not, empty where no sample has it.
    """
    import pandas as pd

    from curation.slices import column_name

    names = {name: column_name(name) for name in dict.fromkeys(k for s in samples for k in s.metadata)}
    needed = {c.field for found in asked for c in found.conditions if c.field != "class"}
    used = {k: v for k, v in names.items() if v in needed or (k not in ignore and v not in ignore)}
    rows = [{used[k]: v for k, v in s.metadata.items() if k in used} for s in samples]
    metadata = pd.DataFrame(rows, index=[s.id for s in samples])
    for column in metadata.select_dtypes(exclude="number"):  # numbers in one import, text in another
        if metadata[column].map(lambda value: isinstance(value, str)).any():
            metadata[column] = metadata[column].map(_as_text)
    kept = [c for c in metadata if c in needed or metadata[c].dtype.kind in "fiu" or _names_several(metadata[c])]
    table = pd.concat([metadata[kept], properties.loc[[s.id for s in samples]]], axis=1)
    return table.assign(**dict.fromkeys(sorted(needed - {*table}), np.nan))


def not_in_metadata(samples: Sequence[Sample], columns: Sequence[str]) -> list[str]:
    """Those of these metadata columns that no sample has, under either name of ``slice_table``."""
    from curation.slices import column_name

    names = {name for s in samples for name in s.metadata}
    return [column for column in columns if column not in names | {column_name(name) for name in names}]


def _as_text(value: object) -> object:
    """A number as the text that it was in a table; what is text or missing stays."""
    from curation.slice_words import number_text

    return number_text(value) if isinstance(value, float) and value == value else value


def _names_several(column: pd.Series) -> bool:
    """Whether some value of a column is that of several samples."""
    return bool(column.dropna().duplicated().any())


def class_of(labels: Mapping[str, CurrentLabel], sample: Sample) -> str:
    """The class id of a sample that has a label; ProjectError where it has none."""
    class_id = labels[sample.id].class_id
    if class_id is None:
        raise ProjectError(f"{sample.path} has no label, but a stage that needs labels was given it")
    return class_id


def _score_labels(
    inputs: Inputs,
    labels: tuple[npt.NDArray[np.int64], int, npt.NDArray[np.bool_]],
    _: Progress | None = None,
) -> OutOfSample:
    """Judge labels, in so many folds where there are any, of which some are settled."""
    from curation.scoring import score_inputs

    columns, folds, settled = labels
    return score_inputs(inputs, columns, folds=folds, settled=settled)
