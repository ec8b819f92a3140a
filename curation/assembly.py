"""Where the parts are put together: from settings to what the loop works with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.config import Settings
from curation.judging import joint_groups
from curation.parts import Parts, Reporter
from curation.records import Augmentation, Progress, Sample
from curation.repairing import Repairer
from curation.reporting import Say
from curation.runs import ProjectPaths

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from curation.backbone import Backbone
    from curation.engine import Engine
    from curation.features import FeatureStore
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
    engine = _engine(settings, backbone)
    pixels = PixelCache(paths.cache / "pixels", size)
    return FeatureStore(backbone, pixels, paths.cache / "features", views=views, engine=engine)


def make_parts(
    store: FeatureStore,
    paths: ProjectPaths,
    settings: Settings,
    samples: Sequence[Sample],
    reporter: Reporter,
    progress: Progress | None = None,
) -> Parts:
    """What the loop works with; ``samples`` are all of the project's."""
    from curation.features import ViewFeatures
    from curation.heads import HeadTrainer, encode_copies
    from curation.properties import measure_properties

    backbone, pixels = store.backbone, store.pixels
    engine, views = _engine(settings, backbone), paths.cache / "views"
    return Parts(
        engine=engine,
        encoder=store,
        judge=ViewFeatures(backbone, views, engine=engine) if settings.detection.views == "many" else None,
        trainer=HeadTrainer(store, pixels) if settings.training.method == "head" else _FineTuner(store, settings),
        measure=lambda samples, progress: measure_properties(samples, paths.cache / "properties.parquet", progress),
        plan_recipe=_repairer(paths, settings, samples, store, pixels),
        reporters=[reporter],
        progress=progress,
        copies=lambda samples, augmentations, seed: encode_copies(store, pixels, samples, augmentations, seed),
    )


def _repairer(
    paths: ProjectPaths, settings: Settings, samples: Sequence[Sample], store: FeatureStore, pixels: PixelCache
) -> Repairer:
    from augment.recipes import read_recipes
    from curation.neighbours import group_near_duplicates

    return Repairer(
        store=store,
        pixels=pixels.pixels,
        group=lambda samples, features: joint_groups(samples, group_near_duplicates(features)),
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

        settings = self._settings
        number = checkpoint.parent.name  # that of the iteration; a fold's has no model before it
        before = (
            checkpoint.parent.with_name(f"{int(number) - 1:03d}") / "model.safetensors" if number.isdigit() else None
        )
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
