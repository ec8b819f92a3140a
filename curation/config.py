"""``curation.toml`` and the frozen settings of each stage; an unknown or wrong setting is an error that names it."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

from curation.errors import ConfigError

#: However few images there are, an iteration's trials may look at so many copies.
LEAST_COPIES = 300


@dataclass(frozen=True)
class BackboneSettings:
    """Which pretrained network sees the images.

    ``name`` is any timm model; ``weights`` a local ``.safetensors`` or ``.pth`` file, empty for the bundled or hub
    weights. ``size`` is the side in pixels that images are resized to; 0 chooses 112 for small images and 224 for
    others. ``device`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """

    name: str = "tf_efficientnet_lite0"
    weights: str = ""
    size: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        known = re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device)
        _require(known is not None, "backbone.device", self.device, "'auto', 'cpu', 'cuda' or 'cuda:N'")
        _require(self.size == 0 or 32 <= self.size <= 1024, "backbone.size", self.size, "0 or 32 to 1024")


@dataclass(frozen=True)
class TrainingSettings:
    """How the backbone is trained: ``method`` is ``fine-tune``, ``views``, ``head``, or ``auto``.

    ``views`` is a head on the features that labels are judged by, ``head`` a linear one on the features of one forward
    pass; ``auto`` takes the better of ``fine-tune`` and ``views``, where ``detection.views`` is ``many``. Zeros choose
    from the size of the set. ``warm_start`` begins with the last iteration's weights, not the pretrained ones;
    ``class_balance`` lets each class that has labels weigh the same, by every method; ``mixup`` and ``cutmix`` are the
    strengths of their Beta distributions, 0 for none. ``deterministic`` gives the same weights each time on CUDA too,
    at a cost in speed; ``compile`` is ``auto``, ``on`` or ``off``: whether CUDA runs the network through
    ``torch.compile``. ``processes`` train together, one a GPU; 0 for as many as there are GPUs, which is one on a CPU.
    """

    method: str = "auto"
    epochs: int = 0
    batch_size: int = 64
    head_rate: float = 0.0
    tail_rate: float = 0.0
    label_smoothing: float = 0.05
    weight_decay: float = 0.05
    warm_start: bool = False
    class_balance: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    deterministic: bool = False
    compile: str = "auto"
    processes: int = 0

    def __post_init__(self) -> None:
        methods = ("auto", "fine-tune", "views", "head")
        _require(self.method in methods, "training.method", self.method, "'auto', 'fine-tune', 'views' or 'head'")
        _require(0 <= self.epochs <= 1000, "training.epochs", self.epochs, "0 to 1000")
        _require(1 <= self.batch_size <= 65536, "training.batch_size", self.batch_size, "1 to 65536")
        for name in ("head_rate", "tail_rate", "weight_decay"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"training.{name}", value, "0 or more, and finite")
        _require(0 <= self.label_smoothing < 1, "training.label_smoothing", self.label_smoothing, "in [0, 1)")
        _require(0 <= self.mixup <= 10, "training.mixup", self.mixup, "0 to 10")
        _require(0 <= self.cutmix <= 10, "training.cutmix", self.cutmix, "0 to 10")
        _require(0 <= self.processes <= 64, "training.processes", self.processes, "0 to 64")
        _require(self.compile in ("auto", "on", "off"), "training.compile", self.compile, "'auto', 'on' or 'off'")


@dataclass(frozen=True)
class DetectionSettings:
    """How label issues are found: ``folds`` of the cross-validation, and whether other issue kinds are looked for.

    ``views`` is ``many`` (labels are judged by features at several sizes, with mirror images) or ``one`` (at the
    backbone's size alone, about a quarter of the time). ``rotation_invariant`` says that images mean the same turned by
    half a circle, as cells, tissue and satellites do: some views look at them upside down then. ``scorer`` is
    ``features`` (one fit on frozen features) or ``training`` (what ``[training]`` says, trained anew without each fold:
    many times the time; for images that are far from what the backbone was pretrained on).
    """

    folds: int = 5
    views: str = "many"
    rotation_invariant: bool = False
    scorer: str = "features"
    image_quality: bool = True
    duplicates: bool = True

    def __post_init__(self) -> None:
        _require(2 <= self.folds <= 50, "detection.folds", self.folds, "2 to 50")
        _require(self.views in ("many", "one"), "detection.views", self.views, "'many' or 'one'")
        _require(self.scorer in ("features", "training"), "detection.scorer", self.scorer, "'features' or 'training'")


@dataclass(frozen=True)
class ReviewSettings:
    """What people are asked: ``budget`` reviews an iteration, of which a share blind and a share controls.

    ``opinions`` is how many people answer each task; ``second_opinions`` the share of the budget that goes to images
    of which somebody has said something, but person and model together are least sure, up to ``most_opinions``. With
    ``timing = false`` it is not recorded how long people take. ``annotator`` is ``label-studio``, ``files`` or
    ``replay:FILE``. ``images_url`` is where a Label Studio that others run finds the images, with ``{path}`` (within
    the folder of images) or ``{id}`` (SHA-256 of the file) in it, for instance ``https://host/photos/{path}`` or
    ``s3://bucket/{path}``; empty: they are uploaded to it. ``texts`` is a TOML file of words for the labeling screen,
    relative to the project, in place of those in ``labeling/texts.toml``, for instance in another language. ``people``
    names those who have a queue of their own in Label Studio, among whom each batch is divided evenly; where it names
    nobody, all share.
    """

    budget: int = 100
    blind_share: float = 0.1
    control_share: float = 0.1
    opinions: int = 1
    second_opinions: float = 0.0
    most_opinions: int = 3
    timing: bool = True
    annotator: str = "label-studio"
    images_url: str = ""
    texts: str = ""
    people: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(self.budget >= 0, "review.budget", self.budget, "0 or more")
        _require(0 <= self.blind_share <= 1, "review.blind_share", self.blind_share, "in [0, 1]")
        _require(0 <= self.control_share <= 1, "review.control_share", self.control_share, "in [0, 1]")
        _require(
            self.blind_share + self.control_share <= 1,
            "review.blind_share + review.control_share",
            self.blind_share + self.control_share,
            "at most 1",
        )
        _require(1 <= self.opinions <= 20, "review.opinions", self.opinions, "1 to 20")
        _require(0 <= self.second_opinions <= 1, "review.second_opinions", self.second_opinions, "in [0, 1]")
        _require(1 <= self.most_opinions <= 20, "review.most_opinions", self.most_opinions, "1 to 20")
        twice = sorted(name for name, count in Counter(self.people).items() if count > 1)
        _require(not twice, "review.people", f"{', '.join(twice)} more than once", "different names")
        _require(
            all(n == n.strip() != "" for n in self.people), "review.people", list(self.people), "names, none empty"
        )
        _require(
            not self.people or len(self.people) >= self.opinions,
            "review.people",
            f"{len(self.people)} for review.opinions = {self.opinions}",
            "empty, or at least as many names as people are asked about each image",
        )
        known = is_annotator(self.annotator)
        _require(known, "review.annotator", self.annotator, "'label-studio', 'files' or 'replay:FILE'")
        template = re.fullmatch(r"(https?|s3|gs|azure-blob)://[^/{}@]+/[^{}]*(\{(path|id)\}[^{}]*)+", self.images_url)
        _require(
            not self.images_url or template is not None,
            "review.images_url",
            self.images_url,
            "empty, or an address of http, https, s3, gs or azure-blob with {path} or {id} in it and no password",
        )


@dataclass(frozen=True)
class SliceSettings:
    """Weak slices: smallest size, most conditions, error level that the search may reach by chance, extra copies.

    ``ignore`` names metadata columns that slices must not use, for instance one that the label was made from.
    ``recipes`` is a TOML file of recipes of one's own, relative to the project; ``trial`` uses the recipe for the
    weakest slice even where it is not proven to help, and marks it as unproven. ``effort`` is how many copies an
    iteration's trials look at, for each image with a label; 300 at least. ``stability`` says whether a head on views
    may have the network taught by a recipe (stability training): ``auto`` where a GPU computes, or where a CPU has no
    more than 10,000 images to look at anew, by a network that is not too much work; ``on``; ``off``.
    """

    min_size: int = 20
    max_conditions: int = 2
    alpha: float = 0.05
    copies: int = 2
    effort: float = 1.0
    ignore: tuple[str, ...] = ()
    recipes: str = ""
    trial: bool = False
    stability: str = "auto"

    def __post_init__(self) -> None:
        _require(self.stability in ("auto", "on", "off"), "slices.stability", self.stability, "'auto', 'on' or 'off'")
        _require(self.min_size >= 2, "slices.min_size", self.min_size, "2 or more")
        _require(1 <= self.max_conditions <= 3, "slices.max_conditions", self.max_conditions, "1 to 3")
        _require(0 < self.alpha < 1, "slices.alpha", self.alpha, "in (0, 1)")
        _require(0 <= self.copies <= 20, "slices.copies", self.copies, "0 to 20")
        _require(0 <= self.effort <= 100, "slices.effort", self.effort, "0 to 100")

    def copies_looked_at(self, images: int) -> int:
        """How many copies an iteration's trials look at, at most, where so many images have a label.

        >>> SliceSettings().copies_looked_at(100), SliceSettings(effort=0.5).copies_looked_at(4_000)
        (300, 2000)
        """
        return max(round(self.effort * images), LEAST_COPIES)


@dataclass(frozen=True)
class CostSettings:
    """What mistakes cost where one class must not be missed, in any unit; used only where ``positive`` names a class.

    ``positive`` is that class's name (for instance a defect), ``miss`` what it costs to call one of its images
    something else, ``false_alarm`` what it costs to call another image so.
    """

    positive: str = ""
    miss: float = 10.0
    false_alarm: float = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.miss < math.inf, "costs.miss", self.miss, "above 0, and finite")
        _require(0 < self.false_alarm < math.inf, "costs.false_alarm", self.false_alarm, "above 0, and finite")


@dataclass(frozen=True)
class ReportSettings:
    """Where error analysis is recorded: FiftyOne (``fiftyone = false`` leaves it out) and the HTML report."""

    fiftyone: bool = True


@dataclass(frozen=True)
class Settings:
    """Everything in ``curation.toml``.

    ``images`` is the folder that relative paths start from; ``ledger`` the ledger's database URL, empty for the
    project's own SQLite file; ``holdout_share`` what import sets apart where no split is given. ``answer_key`` is a
    table ``path,label`` of true labels, for demos and benchmarks only: it is counted against, and steers nothing.
    ``engine`` is where embedding, scoring and folds are computed: ``local``, or ``ray``, the cluster at
    ``engine_address`` (``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``). ``bits`` is how many of their bits 16-bit
    images use, 8 to 16: ``curate init`` sets it by the largest value that it finds.
    """

    name: str = ""
    images: str = ""
    bits: int = 16
    ledger: str = ""
    seed: int = 0
    holdout_share: float = 0.2
    answer_key: str = ""
    engine: str = "local"
    engine_address: str = "auto"
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    detection: DetectionSettings = field(default_factory=DetectionSettings)
    review: ReviewSettings = field(default_factory=ReviewSettings)
    slices: SliceSettings = field(default_factory=SliceSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    costs: CostSettings = field(default_factory=CostSettings)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        _require(0 < self.holdout_share < 1, "holdout_share", self.holdout_share, "in (0, 1)")
        _require(8 <= self.bits <= 16, "bits", self.bits, "8 to 16")
        _require(self.engine in ("local", "ray"), "engine", self.engine, "'local' or 'ray'")
        query = self.ledger.partition("?")[2]
        named = any(re.search(r"(?i)pass(word|wd)", key) for key, _ in parse_qsl(query, keep_blank_values=True))
        if named or re.search(r"://[^:/]*:[^@]*@", self.ledger):  # as SQLAlchemy reads it
            raise ConfigError(
                "setting 'ledger' must not hold a password; put it into PGPASSWORD or ~/.pgpass (mode 600), "
                "from where the database's driver takes it"
            )


def is_annotator(name: str) -> bool:
    """Whether somebody answers under this name: people in Label Studio or in files, or a file that is replayed.

    >>> [is_annotator(name) for name in ("files", "replay:answers.csv", "replay:", "nobody")]
    [True, True, False, False]
    """
    return name in ("label-studio", "files") or bool(re.fullmatch(r"replay:\s*\S.*", name, re.DOTALL))


def _require(holds: bool, setting: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"setting '{setting}' must be {allowed}, got {value}")


def settings_from_dict(values: Mapping[str, Any], source: str = "curation.toml") -> Settings:
    """Check plain nested values and make them ``Settings``.

    >>> settings_from_dict({"review": {"budget": 50}}).review.budget
    50

    Raises ConfigError for an unknown key (offering the nearest one), a wrong type or a value out of range.
    """
    return cast(Settings, _section(Settings, values, source, ""))


def _section(kind: Any, values: Mapping[str, Any], source: str, prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    given: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{prefix}{key}"
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            offer = f"did you mean '{prefix}{near[0]}'?" if near else f"known here: {', '.join(sorted(known))}"
            raise ConfigError(f"{source}: unknown setting '{where}'; {offer}")
        given[key] = _value(hints[key], value, source, where)
    try:
        return kind(**given)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _value(hint: Any, value: Any, source: str, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{source}: '{where}' is a table of settings, got {value!r}")
        return _section(hint, value, source, f"{where}.")
    if hint == tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
            raise ConfigError(f"{source}: setting '{where}' must be a list of texts, got {value!r}")
        return tuple(value)
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{source}: setting '{where}' is a number of too many digits") from None
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        wanted = " or ".join(t.__name__ for t in allowed)
        raise ConfigError(f"{source}: setting '{where}' must be of type {wanted}, got {value!r}")
    return value


def model_settings(settings: Settings) -> dict[str, Any]:
    """What a model hangs on beside its data, by the settings' names; not what only says where and how fast it is made.

    >>> model_settings(Settings(seed=3, training=TrainingSettings(method="head")))["seed"]
    3
    """
    training = dataclasses.asdict(settings.training)
    kept = {name: value for name, value in training.items() if name not in ("deterministic", "compile", "processes")}
    if settings.training.method in ("head", "views"):  # in closed form
        kept = {name: kept[name] for name in ("method", "class_balance")}
    views = ("views", "rotation_invariant") if settings.training.method in ("auto", "views") else ()
    return {
        "seed": settings.seed,
        "bits": settings.bits,
        **{f"backbone.{name}": getattr(settings.backbone, name) for name in ("name", "weights", "size")},
        **{f"training.{name}": value for name, value in kept.items()},
        **{f"detection.{name}": getattr(settings.detection, name) for name in views},
    }


def read_settings(file: Path) -> Settings:
    """Read ``curation.toml``; raises ConfigError with the file's name for what is wrong in it."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} is missing; make a project with `curate init`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    return settings_from_dict(values, str(file))


def settings_to_toml(settings: Settings) -> str:
    """Write settings as TOML that ``read_settings`` gives back unchanged."""
    import tomlkit  # only when a project is made

    document = tomlkit.document()
    document.add(tomlkit.comment("Settings of a Curation Toolkit project; every key has a default that works."))
    for key, value in dataclasses.asdict(settings).items():
        document[key] = _plain(value)
    return tomlkit.dumps(document)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value
