"""Where the parts are put together: from settings to what the loop works with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.config import Settings
from curation.judging import joint_groups
from curation.parts import Parts, Reporter, Trainer
from curation.records import Augmentation, Progress, Sample
from curation.repairing import Repairer
from curation.reporting import Say
from curation.runs import ProjectPaths

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from curation.backbone import Backbone
    from curation.engine import Engine
    from curation.features import FeatureStore, ViewFeatures
    from curation.images import PixelCache


def feature_store(paths: ProjectPaths, settings: Settings, say: Say) -> FeatureStore:
    """Features by the settings' backbone, which is told in words to ``say``; kept in the project's cache."""
    from curation.backbone import deterministic, load_backbone
    from curation.features import FeatureStore
    from curation.images import PixelCache

    size = settings.backbone.size or 224
    weights = Path(settings.backbone.weights) if settings.backbone.weights else None
    chosen = settings.backbone
    with deterministic(settings.training.deterministic):
        backbone = load_backbone(chosen.name, weights=weights, size=size, device=chosen.device)
    say(backbone.describe())
    views = paths.cache / "views" if settings.detection.views == "many" else None
    viewed = settings.training.method in ("auto", "views")
    engine = _engine(settings, backbone)
    pixels = PixelCache(paths.cache / "pixels", size)
    return FeatureStore(backbone, pixels, paths.cache / "features", views=views, view_all=viewed, engine=engine)


def view_features(store: FeatureStore, paths: ProjectPaths, settings: Settings) -> ViewFeatures:
    """What labels are judged by, and a head on views is trained on; kept in the project's cache."""
    from curation.features import ViewFeatures

    return ViewFeatures(store.backbone, paths.cache / "views", engine=_engine(settings, store.backbone))


def make_parts(
    store: FeatureStore,
    paths: ProjectPaths,
    settings: Settings,
    samples: Sequence[Sample],
    reporter: Reporter,
    progress: Progress | None = None,
) -> Parts:
    """What the loop works with; ``samples`` are all of the project's."""
    from curation.heads import encode_copies
    from curation.properties import measure_properties

    backbone, pixels = store.backbone, store.pixels
    views = view_features(store, paths, settings)
    return Parts(
        engine=_engine(settings, backbone),
        encoder=store,
        judge=views if settings.detection.views == "many" else None,
        trainer=_trainer(store, views, settings),
        measure=lambda samples, progress: measure_properties(samples, paths.cache / "properties.parquet", progress),
        plan_recipe=_repairer(paths, settings, samples, store, pixels),
        reporters=[reporter],
        progress=progress,
        copies=lambda samples, augmentations, seed: encode_copies(store, pixels, samples, augmentations, seed),
    )


def _trainer(store: FeatureStore, views: ViewFeatures, settings: Settings) -> Trainer:
    """What trains, by the settings."""
    from curation.heads import HeadTrainer
    from curation.view_heads import ViewTrainer
    from curation.ways import EitherTrainer

    method = settings.training.method
    viewer = ViewTrainer(views, settings.training, lambda samples: _alike(samples, store.features(samples)))
    if method == "head":
        return HeadTrainer(store, store.pixels)
    if method == "views":
        return viewer
    tuner = _FineTuner(store, settings)
    return EitherTrainer(tuner, viewer) if method == "auto" and settings.detection.views == "many" else tuner


def _alike(samples: Sequence[Sample], features: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Group numbers, (samples,), of what shares a user's group or is a near-duplicate."""
    from curation.neighbours import group_near_duplicates

    return joint_groups(samples, group_near_duplicates(features))


def _repairer(
    paths: ProjectPaths, settings: Settings, samples: Sequence[Sample], store: FeatureStore, pixels: PixelCache
) -> Repairer:
    from augment.recipes import read_recipes

    return Repairer(
        store=store,
        pixels=pixels.pixels,
        group=_alike,
        samples={s.id: s for s in samples},
        settings=settings.slices,
        recipes=read_recipes(paths.root / settings.slices.recipes) if settings.slices.recipes else (),
        seed=settings.seed,
    )


def _engine(settings: Settings, backbone: Backbone) -> Engine:
    """Where the settings want heavy work computed."""
    from curation.engine import make_engine

    return make_engine(settings.engine, settings.engine_address, gpu=backbone.device.type == "cuda")


class _FineTuner:
    """Trains by fine-tuning the backbone on the cached activations of its trunk."""

    def __init__(self, store: Any, settings: Settings) -> None:
        self._store = store
        self._settings = settings

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
        if processes > 1:
            return fine_tune_together(
                self._store, samples, labels, class_ids, settings=settings.training, seed=seed, processes=processes,
                weights=Path(settings.backbone.weights) if settings.backbone.weights else None,
                augmentations=augmentations, checkpoint=checkpoint, progress=progress, before=before,
            )  # fmt: skip
        return fine_tune(
            self._store, samples, labels, class_ids, settings=settings.training, seed=seed,
            augmentations=augmentations, checkpoint=checkpoint, progress=progress, before=before,
        )  # fmt: skip
