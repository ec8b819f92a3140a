"""Where the parts are put together: from settings to what the loop works with."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.config import Settings
from curation.errors import ConfigError
from curation.judging import groups_of, near_duplicates
from curation.kept import Kept
from curation.parts import Parts, Reporter, Trainer
from curation.records import Augmentation, Classes, Progress, Sample
from curation.repairing import Repairer
from curation.runs import ProjectPaths

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from augment.recipes import Recipe
    from curation.backbone import Backbone
    from curation.engine import Engine
    from curation.features import FeatureStore, ViewFeatures


#: A CPU looks at so many images of a project anew, with a network that a recipe taught, in a quarter of an hour.
MOST_SEEN_ANEW = 10_000


@dataclass(frozen=True, eq=False)
class Encoders:
    """The network and what it tells of images: the store that models are trained on, and what labels are judged by.

    ``made_from`` is what it was loaded by (``made_from``): while that stays, another would be the same. ``kept`` is
    what was worked out of their features.
    """

    store: FeatureStore
    views: ViewFeatures
    made_from: Hashable
    kept: Kept = field(default_factory=Kept)


def made_from(settings: Settings) -> Hashable:
    """All that decides over a network and what is computed with it, the state of its file of weights included."""
    chosen = settings.backbone
    weights = Path(chosen.weights) if chosen.weights else None
    file = (weights.stat().st_mtime_ns, weights.stat().st_size) if weights and weights.exists() else None
    judged = (settings.detection.views, settings.detection.rotation_invariant)
    how = (settings.training.deterministic, settings.training.method, *judged)
    return chosen, file, how, settings.engine, settings.engine_address, settings.bits


def load_encoders(paths: ProjectPaths, settings: Settings) -> Encoders:
    """The settings' network, loaded, with features kept in the project's cache; errors as of ``load_backbone``."""
    from curation.backbone import deterministic, load_backbone
    from curation.features import FeatureStore, ViewFeatures
    from curation.images import PixelCache

    asked = made_from(settings)
    size = settings.backbone.size or 224
    weights = Path(settings.backbone.weights) if settings.backbone.weights else None
    chosen = settings.backbone
    with deterministic(settings.training.deterministic):
        backbone = load_backbone(chosen.name, weights=weights, size=size, device=chosen.device)
    cache = paths.image_cache(settings.bits)
    views = cache / "views" if settings.detection.views == "many" else None
    viewed = settings.training.method in ("auto", "views")
    engine = _engine(settings, backbone)
    pixels = PixelCache(cache / "pixels", size)
    store = FeatureStore(backbone, pixels, cache / "features", views=views, view_all=viewed, engine=engine)
    turned = settings.detection.rotation_invariant
    return Encoders(store, ViewFeatures(backbone, cache / "views", rotation_invariant=turned, engine=engine), asked)


def make_parts(
    encoders: Encoders,
    paths: ProjectPaths,
    settings: Settings,
    samples: Sequence[Sample],
    classes: Classes,
    reporter: Reporter,
    progress: Progress | None = None,
) -> Parts:
    """What the loop works with; ``samples`` are those that can be used, ``classes`` all of the project's."""
    from curation.copied import copied_by_store
    from curation.properties import measure_properties
    from curation.steadying import seen_by

    store, views = encoders.store, encoders.views
    return Parts(
        engine=_engine(settings, store.backbone),
        kept=encoders.kept,
        encoder=store,
        judge=views if settings.detection.views == "many" else None,
        trainer=_trainer(encoders, settings),
        measure=lambda samples, progress: measure_properties(
            samples, paths.image_cache(settings.bits) / "properties.parquet", progress
        ),
        repair=_repairer(paths, settings, samples, classes, encoders, progress),
        reporters=[reporter],
        progress=progress,
        copies=copied_by_store(store, encoders.kept).copies,
        taught=lambda file, samples, progress: (seen_by(views, file) if file else views).pooled(samples, progress),
        identity=store.backbone.identity,
    )


def _trainer(encoders: Encoders, settings: Settings) -> Trainer:
    """What trains, by the settings."""
    from curation.copied import copied_by_store
    from curation.heads import HeadTrainer
    from curation.view_heads import ViewTrainer
    from curation.ways import EitherTrainer

    store, kept, method = encoders.store, encoders.kept, settings.training.method

    def group(samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
        return groups_of(samples, near_duplicates(kept, samples, lambda: store.features(samples)))

    viewer = ViewTrainer(encoders.views, settings.training, group, kept)
    if method == "head":
        return HeadTrainer(copied_by_store(store, kept), class_balance=settings.training.class_balance)
    if method == "views":
        return viewer
    tuner = _FineTuner(store, settings, group)
    return EitherTrainer(tuner, viewer) if method == "auto" and settings.detection.views == "many" else tuner


def _repairer(
    paths: ProjectPaths,
    settings: Settings,
    samples: Sequence[Sample],
    classes: Classes,
    encoders: Encoders,
    progress: Progress | None,
) -> Repairer:
    from curation.copied import copied_by_store, copied_by_views
    from curation.steadying import MOST_WORK, ViewTeacher
    from curation.ways import goes_by_views

    store, kept, method = encoders.store, encoders.kept, settings.training.method
    by_views = settings.detection.views == "many" and method in ("auto", "views")
    copied = copied_by_views(encoders.views, kept) if by_views else copied_by_store(store, kept)
    wanted = settings.slices.stability
    on_cpu = store.backbone.device.type == "cpu"
    taught = wanted == "on" or (wanted == "auto" and not (on_cpu and len(samples) > MOST_SEEN_ANEW))
    return Repairer(
        store=copied,
        pixels=store.pixels.pixels,
        group=lambda samples, _: groups_of(samples, near_duplicates(kept, samples, lambda: store.features(samples))),
        samples={s.id: s for s in samples},
        settings=settings.slices,
        recipes=_own_recipes(paths.root / settings.slices.recipes) if settings.slices.recipes else (),
        seed=settings.seed,
        class_name=classes.name,
        progress=progress,
        aligns=lambda folder: by_views and (method == "views" or goes_by_views(folder, store.backbone.identity)),
        teacher=ViewTeacher(
            encoders.views,
            paths.image_cache(settings.bits) / "networks",
            settings.training.deterministic,
            most_work=MOST_WORK if wanted == "auto" and on_cpu else None,
        )
        if by_views and taught
        else None,
    )


def _own_recipes(file: Path) -> list[Recipe]:
    """The user's recipes, each tried out: what is wrong with one is told before anybody works; raises ConfigError."""
    from augment.recipes import read_recipes
    from augment.transforms import build_transform

    recipes = read_recipes(file)
    for recipe in recipes:
        try:
            build_transform(recipe)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
    return recipes


def _engine(settings: Settings, backbone: Backbone) -> Engine:
    """Where the settings want heavy work computed."""
    from curation.engine import make_engine

    return make_engine(settings.engine, settings.engine_address, gpu=backbone.device.type == "cuda")


class _FineTuner:
    """Trains by fine-tuning the backbone on the cached activations of its trunk."""

    def __init__(
        self, store: Any, settings: Settings, group: Callable[[Sequence[Sample]], npt.NDArray[np.int64]]
    ) -> None:
        self._store = store
        self._settings = settings
        self._group = group

    def train(
        self,
        samples: Sequence[Sample],
        labels: npt.NDArray[np.int64],
        class_ids: tuple[str, ...],
        *,
        seed: int,
        augmentations: Sequence[Augmentation],
        checkpoint: Path,
        progress: Progress | None,
    ) -> Any:
        from curation.parallel import fine_tune_together, processes_for
        from curation.training import fine_tune
        from curation.ways import model_before

        settings, before = self._settings, model_before(checkpoint)  # a fold's has no model before it
        processes = processes_for(str(self._store.backbone.device), settings.training.processes)
        groups = self._group(samples)
        if processes > 1:
            return fine_tune_together(
                self._store, samples, labels, class_ids, settings=settings.training, seed=seed, processes=processes,
                weights=Path(settings.backbone.weights) if settings.backbone.weights else None,
                augmentations=augmentations, checkpoint=checkpoint, progress=progress, before=before,
                groups=groups,
            )  # fmt: skip
        return fine_tune(
            self._store, samples, labels, class_ids, settings=settings.training, seed=seed,
            augmentations=augmentations, checkpoint=checkpoint, progress=progress, before=before, groups=groups,
        )  # fmt: skip
