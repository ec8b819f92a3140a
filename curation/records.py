"""The nouns of the project, as frozen values that check themselves.

Inside the project a class is its **id** (``c1``, ``c2``, ...), which outlives its name; names are for people and
appear only at the edges (tables, screens, reports). ``Classes`` translates. A sample is the SHA-256 of its file's
bytes. Nothing here imports more than the standard library and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from curation.errors import DataError, RecordError, printable

Split = Literal["train", "holdout", "pool"]
#: How a person came to an opinion; ``review`` is a reviewer's, given with everything in sight.
Mode = Literal["shown", "blind", "control", "holdout", "review"]
SliceStatus = Literal["open", "accepted", "collecting", "fixed"]
State = Literal["preparing", "waiting", "training", "reporting", "done", "failed"]
MetadataValue = str | float | int | bool | None

AMBIGUOUS = "ambiguous"
BAD_IMAGE = "bad image"
OTHER = "other"
SKIPPED = "skipped"
WITHDRAWN = "withdrawn"
#: Answers that are not a class. ``skipped`` and ``withdrawn`` count for nothing; the rest are opinions.
SPECIAL_ANSWERS = (AMBIGUOUS, BAD_IMAGE, OTHER, SKIPPED, WITHDRAWN)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Classes:
    """The classes of a project in their fixed order: ids that stay, names that may change.

    >>> classes = Classes(("c1", "c2"), ("cat", "dog"))
    >>> classes.name("c2"), classes.id("cat"), len(classes)
    ('dog', 'c1', 2)

    ``former`` maps names that were a class's before it was renamed, and are nobody's now, to its id.

    >>> Classes(("c1",), ("cat",), {"kitten": "c1"}).named("kitten")
    'c1'
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    former: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise RecordError(f"classes need one name an id, got {len(self.ids)} ids and {len(self.names)} names")
        if len(set(self.ids)) != len(self.ids) or len(set(self.names)) != len(self.names):
            raise RecordError(f"class ids and names must be unique, got {self.ids} and {self.names}")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(zip(self.ids, self.names, strict=True))

    def name(self, class_id: str | None) -> str:
        """The class's name for people; special answers and ``None`` come back as they read ('' for ``None``)."""
        if class_id is None:
            return ""
        if class_id in SPECIAL_ANSWERS:
            return class_id
        try:
            return self.names[self.ids.index(class_id)]
        except ValueError:
            raise RecordError(f"no class has the id '{class_id}'; there are {list(self.ids)}") from None

    def id(self, name: str) -> str:
        """The id of the class with this name; raises DataError where there is none."""
        try:
            return self.ids[self.names.index(name)]
        except ValueError:
            raise DataError(f"'{name}' is no class of this project; there are {list(self.names)}") from None

    def named(self, name: str) -> str | None:
        """The id of the class that has this name, or had it before it was renamed; ``None`` where none did."""
        return self.id(name) if name in self.names else self.former.get(name)

    def index(self, class_id: str) -> int:
        """The column of the class in every array of probabilities."""
        return self.ids.index(class_id)


def check_class_name(name: str) -> None:
    """Raise DataError for a name of a class that can't be shown to people."""
    if printable(name) != name or len(name) > 200:
        raise DataError(
            f"class '{printable(name[:60])}' can't be shown to people: it has a line break or control character, or "
            "more than 200 characters; rename it"
        )


@dataclass(frozen=True)
class Sample:
    """One image, known by its content.

    ``id`` is the SHA-256 of the file's bytes (64 hex digits), ``path`` its first path as the user gave it, ``file``
    where it lies now. ``group`` (module, lot, patient, video) is never divided between folds or splits. ``bits`` is how
    many of their bits the 16-bit images of the project use, by which all of them are read.
    """

    id: str
    path: str
    file: Path
    split: Split
    group: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    width: int = 0
    height: int = 0
    bits: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __reduce__(self) -> tuple[type[Sample], tuple[object, ...]]:
        """Pickled as what it was made from, for its read-only metadata can't be."""
        made_from = (self.id, self.path, self.file, self.split, self.group, dict(self.metadata))
        return Sample, (*made_from, self.width, self.height, self.bits)


@dataclass(frozen=True)
class LabelEvent:
    """An entry of the ledger: what a sample's label became, from what, by whom, when and why.

    ``new`` is a class id, or ``None`` for no label. ``excluded`` says whether the sample is left out of training from
    here on. ``cites`` are the ids of the verdicts that it rests on; ``undoes`` the id of the event taken back, with all
    that came after it.
    """

    id: int
    kind: Literal["import", "decision", "undo"]
    sample_id: str
    old: str | None
    new: str | None
    excluded: bool
    who: str
    at: datetime
    why: str
    iteration: int
    cites: tuple[int, ...] = ()
    undoes: int | None = None


@dataclass(frozen=True)
class Ruling:
    """An entry of the class guide: what a class means (one of ``class_ids``), or which of two it is (both, sorted).

    ``id`` is the number of the ledger's event, so that later ones are newer versions.
    """

    class_ids: tuple[str, ...]
    text: str
    who: str
    at: datetime
    id: int = 0


@dataclass(frozen=True)
class Verdict:
    """What one person said of one image.

    ``answer`` is a class id or one of ``SPECIAL_ANSWERS``. ``key`` names the task it answers (``QueueEntry.key``),
    ``source`` the answer itself at its origin (for instance ``ls:<server>:annotation:12``): a later verdict with the
    same source replaces the earlier one. ``seconds`` is the time that the person took, where known. ``id`` is 0 until
    the ledger has recorded it.
    """

    sample_id: str
    answer: str
    person: str
    at: datetime
    key: str
    source: str
    mode: Mode
    iteration: int
    seconds: float | None = None
    note: str = ""
    id: int = 0


@dataclass(frozen=True)
class Remark:
    """What a reviewer noted of a sample, beside any verdict.

    ``kind`` is ``error`` (``cause`` says why the model errs there, ``note`` the rest) or ``sent`` (the sample was put
    into the review queue by hand). ``iteration`` is the one whose results were looked at. ``id`` is 0 until recorded.
    """

    sample_id: str
    kind: Literal["error", "sent"]
    cause: str
    note: str
    who: str
    at: datetime
    iteration: int
    id: int = 0


@dataclass(frozen=True)
class Release:
    """Labels frozen under a name.

    ``label_event``, ``class_event`` and ``path`` are the last ones that it holds, so that it can be read again from the
    ledger whatever came later; ``checksum`` is that of ``curation.releases.checksum`` over its ``rows`` rows.
    """

    name: str
    at: datetime
    who: str
    note: str
    label_event: int
    class_event: int
    path: int
    rows: int
    checksum: str


@dataclass(frozen=True)
class CurrentLabel:
    """A sample's label as the ledger has it: class id or ``None``; and whether it is left out of training."""

    sample_id: str
    class_id: str | None
    excluded: bool
    event_id: int


@dataclass(frozen=True, eq=False)
class Predictions:
    """Class probabilities for many samples, as one table of arrays.

    ``probabilities`` has shape (samples, classes), float64, each row a distribution over ``class_ids``. ``folds``, of
    shape (samples,), tells which fold's model spoke; -1 where each sample was left out alone, or never trained on.
    Where the project judges a label by predictions, they are out of sample.
    """

    sample_ids: tuple[str, ...]
    class_ids: tuple[str, ...]
    probabilities: npt.NDArray[np.float64]
    folds: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        probabilities = np.ascontiguousarray(self.probabilities, dtype=np.float64)
        folds = np.ascontiguousarray(self.folds, dtype=np.int64)
        expected = (len(self.sample_ids), len(self.class_ids))
        if probabilities.shape != expected:
            raise RecordError(f"probabilities must have shape {expected} (samples, classes), got {probabilities.shape}")
        if folds.shape != expected[:1]:
            raise RecordError(f"folds must have shape {expected[:1]} (samples,), got {folds.shape}")
        if len(set(self.sample_ids)) != len(self.sample_ids):
            raise RecordError("predictions must hold each sample once, but some ids are repeated")
        if not np.isfinite(probabilities).all():
            raise RecordError("probabilities must be finite numbers, but some are NaN or infinite")
        if probabilities.size and (probabilities.min() < -1e-9 or abs(probabilities.sum(axis=1) - 1).max() > 1e-3):
            raise RecordError("each row of probabilities must be non-negative and sum to 1")
        probabilities.setflags(write=False)
        folds.setflags(write=False)
        object.__setattr__(self, "probabilities", probabilities)
        object.__setattr__(self, "folds", folds)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def rows(self, sample_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Row numbers of these samples, in their order; raises RecordError for one that is not here."""
        where = {sample_id: row for row, sample_id in enumerate(self.sample_ids)}
        try:
            return np.array([where[sample_id] for sample_id in sample_ids], dtype=np.int64)
        except KeyError as missing:
            raise RecordError(f"sample {missing} is not in these predictions") from None

    def take(self, sample_ids: Sequence[str]) -> Predictions:
        """The predictions of these samples, in their order."""
        rows = self.rows(sample_ids)
        return Predictions(tuple(sample_ids), self.class_ids, self.probabilities[rows], self.folds[rows])

    def over(self, class_ids: Sequence[str], merged: Mapping[str, str] | None = None) -> Predictions:
        """The same over ``class_ids``, of which more may have come since; those have no probability.

        What classes that were ``merged`` since had goes to those that they now belong to, by id. Raises RecordError
        where one of its own is missing there.
        """
        ids, into = tuple(class_ids), merged or {}
        if ids == self.class_ids and not into:
            return self
        if not set(self.class_ids) <= set(ids):
            raise RecordError(f"predictions of the classes {list(self.class_ids)} can't be told over {list(ids)}")
        probabilities = np.zeros((len(self), len(ids)))
        for class_id, column in zip(self.class_ids, self.probabilities.T, strict=True):
            probabilities[:, ids.index(into.get(class_id, class_id))] += column
        return Predictions(self.sample_ids, ids, probabilities, self.folds)

    def predicted(self) -> tuple[str, ...]:
        """The most probable class id of each sample, in row order."""
        return tuple(self.class_ids[column] for column in self.probabilities.argmax(axis=1))


@dataclass(frozen=True)
class Issue:
    """Something about a sample that a person should look at.

    ``kind`` is ``label`` (the label looks wrong), ``label_conflict`` (the same picture with two labels),
    ``near_duplicate``, ``leak`` (a holdout image that is in train as well), ``outlier``,
    ``class_imbalance`` (of a class with hardly any labels), or an image-quality kind (``dark``, ``light``, ``blurry``,
    ``low_information``, ``odd_size``, ``odd_aspect_ratio``).
    ``score`` is 0 for the worst and 1 for the best. ``given`` and ``suggested`` are class ids where the issue is about
    a label. ``related`` are ids of samples that show why
    (duplicates; nearest of the given, then of the suggested class).
    """

    sample_id: str
    kind: str
    score: float
    reason: str
    given: str | None = None
    suggested: str | None = None
    related: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueueEntry:
    """One request for a person's opinion on one sample.

    ``mode``: ``shown`` (with given label, suggestion and reason), ``blind`` (flagged, without them), ``control``
    (not flagged, drawn by its doubt; always asked blind), ``holdout`` (a label of the holdout that is checked; asked
    blind, by two people, and kept out of everything that steers). ``key`` is opaque and says nothing of sample or
    mode; sending the same key twice creates nothing twice. ``opinions`` is how many people are asked.
    """

    key: str
    sample_id: str
    iteration: int
    position: int
    mode: Mode
    given: str | None
    suggested: str | None
    reason: str
    related: tuple[str, ...] = ()
    opinions: int = 1


@dataclass(frozen=True)
class Decision:
    """What verdicts on a sample add up to, before it becomes a label event.

    ``outcome``: ``keep`` (the label stands), ``change`` (to ``class_id``), ``exclude`` (bad image), ``contested``
    (people disagree; the label stands and the sample is asked again), ``ambiguous`` (the definition is unclear; the
    label stands). ``confidence`` in [0, 1]. ``cites`` are the verdict ids.
    """

    sample_id: str
    outcome: Literal["keep", "change", "exclude", "contested", "ambiguous"]
    class_id: str | None
    confidence: float
    cites: tuple[int, ...]
    why: str


@dataclass(frozen=True)
class Condition:
    """One condition of a slice, for instance ``brightness < 0.21`` or ``wafer = poly``.

    ``field`` is ``class``, a metadata column (as ``slices.column_name`` calls it) or a measured property; ``op`` one of
    ``=``, ``<``, ``>=``.
    For ``field == "class"`` the value is a class id. ``shown`` is the path of the image that a condition on looks
    speaks of, which people are told in place of its id.
    """

    field: str
    op: Literal["=", "<", ">="]
    value: str | float
    shown: str = ""


@dataclass(frozen=True)
class Slice:
    """A group of samples with something in common where the model is weak.

    ``name`` reads like ``class = defective and wafer = poly``; ``sample_ids`` are its train members. ``error_rate``
    and its 95 % interval ``ci`` come from out-of-sample predictions of train rows, ``rest_error_rate`` from the other
    train rows; the ``holdout_*`` figures confirm it and steer nothing. ``weakness`` names what a recipe should produce
    (``dark``, ``blurred``, ..., ``rare``), ``""`` where nothing fits. ``removable`` is how many errors would be gone if
    it were no worse than other images of its classes; ``typical`` its most typical members, first the most. ``repair``
    says what is done about it and ``proof`` what that rests on: a recipe that was proven in cross-validation, showing
    its images more often, a recipe that was not proven, nothing but to collect more, or nothing before people have
    reviewed its labels, of which many are flagged. ``history`` has iteration, size and error rate of each iteration
    that it was looked at in. While it is being collected for, ``wanted`` more images are asked for, counted from the
    size ``began``, which moves with what was there before.
    """

    name: str
    conditions: tuple[Condition, ...]
    sample_ids: tuple[str, ...]
    size: int
    errors: int
    error_rate: float
    ci: Interval
    rest_error_rate: float
    p_value: float
    weakness: str = ""
    holdout_size: int | None = None
    holdout_error_rate: float | None = None
    holdout_ci: Interval | None = None
    status: SliceStatus = "open"
    recipe: str | None = None
    removable: float = 0.0
    repair: Literal["", "recipe", "oversampling", "unproven", "collect", "review"] = ""
    proof: str = ""
    history: tuple[tuple[int, int, float], ...] = ()
    wanted: int = 0
    began: int = 0
    typical: tuple[str, ...] = ()


@dataclass(frozen=True)
class Augmentation:
    """Extra training copies: each of ``sample_ids`` is added ``copies`` times, changed by ``transform``.

    ``transform`` is picklable and maps an (H, W, 3) uint8 array to another, given a seed: ``transform(image, seed)``.
    ``as_they_are`` says that it changes nothing: what is known of the images is known of the copies. ``aligned`` asks a
    head on features to look past what most tells the copies from their images. ``network`` is the file of a network
    that was taught to see copies as their images (``curation.steadying``): a head is then trained on what that one sees
    of the images, and on no copies.
    """

    name: str
    sample_ids: tuple[str, ...]
    copies: int
    transform: Callable[[npt.NDArray[np.uint8], int], npt.NDArray[np.uint8]]
    as_they_are: bool = False
    aligned: bool = False
    network: Path | None = None


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, as fractions or in the figure's own unit; ``None`` bounds are not known."""

    value: float
    ci: Interval | None = None


@dataclass(frozen=True)
class Metrics:
    """How well a model does on a fixed set of rows. Accuracies are fractions; log loss is in nats."""

    size: int
    accuracy: Estimate
    balanced_accuracy: Estimate
    log_loss: Estimate
    per_class: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Iteration:
    """One turn of the loop, as the ledger has it."""

    number: int
    state: State
    started_at: datetime
    ended_at: datetime | None = None
    message: str = ""


Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``: called now and then by long work, from the calling thread."""


class Rows(Protocol):
    """Features (samples, dimensions) in any floating type: an array, or what reads them where they are asked for."""

    @property
    def ndim(self) -> int:
        """Two."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples, and dimensions."""
        ...

    def __getitem__(self, rows: Any, /) -> npt.NDArray[Any]:
        """Rows of a slice or of an array of places, (rows, dimensions)."""
        ...
