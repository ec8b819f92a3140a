"""Fine-tuning by several processes, one a GPU, through torch's DistributedDataParallel; on a CPU they talk by gloo.

Each process runs the very same training and takes its share of every batch; gradients are averaged before each step, so
that the weights stay alike and are those that one process would have come to, up to rounding (mixup and CutMix mix
within a share).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curation.backbone import deterministic, load_backbone
from curation.config import TrainingSettings
from curation.errors import CurationError, TrainingError
from curation.features import FeatureStore
from curation.fitting import Crew
from curation.images import PixelCache
from curation.networks import Labels
from curation.records import Augmentation, Progress, Sample
from curation.training import FineTuned, fine_tune, load_fine_tuned

#: How often progress is looked at, in seconds.
LOOK = 0.5


@dataclass(frozen=True, eq=False)
class Job:
    """All that a process needs in order to train; can be pickled."""

    backbone: str
    identity: str
    weights: Path | None
    size: int
    device: str
    pixels: Path
    features: Path
    samples: tuple[Sample, ...]
    labels: Labels
    class_ids: tuple[str, ...]
    settings: TrainingSettings
    seed: int
    augmentations: tuple[Augmentation, ...]
    checkpoint: Path | None
    whole: bool | None
    before: Path | None
    groups: Labels | None


def processes_for(device: str, wanted: int) -> int:
    """How many processes train: ``wanted``, or where that is 0 one a GPU, unless ``device`` names one of them.

    Raises TrainingError for more than there are GPUs.
    """
    import torch

    if not device.startswith("cuda"):
        return max(1, wanted)
    there = torch.cuda.device_count() if ":" not in device else 1
    if wanted > there:
        raise TrainingError(f"training.processes is {wanted}, but device '{device}' is {there} GPU(s); lower it")
    return wanted or there


def fine_tune_together(
    store: FeatureStore, samples: Sequence[Sample], labels: Labels, class_ids: tuple[str, ...], *,
    settings: TrainingSettings, seed: int, processes: int, weights: Path | None = None,
    augmentations: Sequence[Augmentation] = (), checkpoint: Path | None = None, progress: Progress | None = None,
    whole: bool | None = None, before: Path | None = None, groups: Labels | None = None,
) -> FineTuned:  # fmt: skip
    """``fine_tune`` by so many processes; ``weights`` is the file that the store's backbone was loaded from, if any.

    Process n computes on GPU n. Transforms of ``augmentations`` must be of modules that can be imported, not of the
    caller's script, which is not run again. Where one of them dies or raises, all are ended and TrainingError says why.
    """
    began = time.perf_counter()
    store.features(samples, progress)  # once, before several ask for it
    store.pixels.pixels(samples, progress)
    backbone = store.backbone
    job = Job(
        backbone.name, backbone.identity, weights, backbone.size, backbone.device.type, store.pixels.folder,
        store.folder, tuple(samples), labels, class_ids, settings, seed, tuple(augmentations), checkpoint, whole,
        before, groups,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        _run(job, processes, Path(folder), progress)
        model = load_fine_tuned(Path(folder) / "model.safetensors", store)
    words = f"{model.words}; {processes} processes"
    return replace(model, words=words, seconds=time.perf_counter() - began)


def _run(job: Job, processes: int, folder: Path, progress: Progress | None) -> None:
    """Start the processes and wait for them, passing on what the first one tells."""
    from multiprocessing import get_context

    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    told = get_context("spawn").SimpleQueue()
    with without_script():
        running = start_processes(  # type: ignore[no-untyped-call]  # torch has no types here
            _work, args=(job, processes, folder, told), nprocs=processes, join=False, start_method="spawn"
        )
    failed = ""
    try:
        ended = False
        while not ended:
            ended = running.join(timeout=LOOK)
            failed = _pass_on(told, progress) or failed
    except (ProcessRaisedException, ProcessExitedException) as error:
        failed = _pass_on(told, progress) or failed
        last, code = str(error).strip().splitlines()[-1], getattr(error, "exit_code", 1)
        raise TrainingError(failed or ended_words(processes, last, code)) from error
    finally:  # also where this process is told to end
        for process in running.processes:
            process.kill()


@contextmanager
def without_script() -> Iterator[None]:
    """Processes that multiprocessing starts meanwhile do not run the caller's script again.

    Without ``if __name__ == "__main__"`` in it, each of them would begin all that the script does anew.
    """
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    main.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        main.update(hidden)


def ended_words(processes: int, last: str, code: int) -> str:
    """What to say of one of so many processes that ended with this exit code, below 0 for a signal.

    ``last`` is what is known of its end.
    """
    ended = f"one of {processes} processes that trained was ended ({last})"
    if code < 0:  # mostly by the system, which ends what takes too much memory
        return (
            f"{ended}, mostly for want of memory; run again, with a lower training.batch_size or "
            "training.processes = 1 in curation.toml"
        )
    return f"{ended}; what it said stands above, and training.processes = 1 in curation.toml trains in this process"


def _pass_on(told: Any, progress: Progress | None) -> str:
    """Show the progress that was told; returns what a process failed with, where one did."""
    failed = ""
    while not told.empty():
        what, done, total = told.get()
        if total < 0:
            failed = what
        elif progress:
            progress(what, done, total)
    return failed


def _work(rank: int, job: Job, processes: int, folder: Path, told: Any) -> None:
    """One of the processes: the store anew, the same training, its share of each batch."""
    import torch
    from torch import distributed

    if job.device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    backend = "nccl" if job.device == "cuda" else "gloo"
    meeting = f"file://{folder / 'meeting'}"
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=processes)
    note: Callable[[str, int, int], None] = lambda *words: told.put(words)  # noqa: E731 — one line says it
    try:
        model = _trained(job, Crew(rank, processes), note if rank == 0 else None)
        if rank == 0:
            model.save(folder / "model.safetensors")
    except CurationError as error:
        told.put((str(error), 0, -1))
        raise
    distributed.barrier()
    distributed.destroy_process_group()


def _trained(job: Job, crew: Crew, progress: Progress | None) -> FineTuned:
    device = f"cuda:{crew.rank}" if job.device == "cuda" else "cpu"
    with deterministic(job.settings.deterministic):
        backbone = load_backbone(job.backbone, weights=job.weights, size=job.size, device=device)
    if backbone.identity != job.identity:
        raise TrainingError(
            f"{job.backbone} was loaded with other weights than before; name a file as backbone.weights in "
            "curation.toml, the same for all"
        )
    store = FeatureStore(backbone, PixelCache(job.pixels, job.size), job.features)
    return fine_tune(
        store, job.samples, job.labels, job.class_ids, settings=job.settings, seed=job.seed,
        augmentations=job.augmentations, checkpoint=job.checkpoint, progress=progress, whole=job.whole,
        before=job.before, crew=crew, groups=job.groups,
    )  # fmt: skip
