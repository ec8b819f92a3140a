"""``curate doctor``: is everything there that the toolkit needs, and does it work?"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from curation.errors import CurationError, InputError
from curation.runs import ProjectPaths, read_json

PACKAGES = ("torch", "timm", "cleanlab", "albumentations", "label-studio-sdk", "fiftyone", "pandas", "sqlalchemy")
ROOM_NEEDED = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is well, and what there is or what to do."""

    what: str
    ok: bool
    words: str


def examine(project: Path | None = None, *, ledger: bool = False, device: str | None = None) -> list[Finding]:
    """Look at Python, packages, device, backbone weights, MongoDB, Label Studio, disk, and a project if given.

    The device is ``device`` where it is given, else the one of the project's settings, else what ``auto`` finds. The
    backbone is the project's, at its size, else the default one; the disk the one that the project is on.

    With ``ledger`` only at the project's ledger: every row of it, against its chain of hashes and against the heads of
    the chain that the iterations noted.
    """
    if ledger:
        if project is None:
            raise InputError("--ledger looks at a project's ledger; name the project's folder too")
        return [_look("ledger", lambda: _ledger(project))]
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("packages", _packages),
        ("device", lambda: _device(project, device)),
        ("backbone weights", lambda: _weights(project)),
        ("database for FiftyOne", _mongod),
        ("Label Studio", _label_studio),
        ("reports", _reports),
        ("disk", lambda: _disk(project)),
    ]
    if project is not None:
        checks.append(("project", lambda: _project(project)))
    return [_look(what, check) for what, check in checks]


def _look(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except CurationError as error:
        return Finding(what, False, str(error))


def _python() -> str:
    return f"{platform.python_version()} on {platform.platform()}"


def _packages() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            raise CurationError(f"{name} is not installed; install curation-toolkit with pip again") from None
    return ", ".join(found)


def _device(project: Path | None, device: str | None) -> str:
    from curation.backbone import describe_device
    from curation.config import read_settings
    from curation.runs import ProjectPaths

    if device is None and project is not None:
        device = read_settings(ProjectPaths(project).settings).backbone.device
    return describe_device(device or "auto")


def _weights(project: Path | None) -> str:
    from curation.backbone import load_backbone
    from curation.config import Settings, read_settings

    settings = Settings() if project is None else read_settings(ProjectPaths(project).settings)
    chosen = settings.backbone
    weights = Path(chosen.weights) if chosen.weights else None
    return load_backbone(chosen.name, weights=weights, size=chosen.size or 224, device="cpu").describe()


def _mongod() -> str:
    from reports.mongo import find_mongod

    return str(find_mongod())


def _label_studio() -> str:
    from labeling.server import connection_from_environment, find_label_studio

    connection = connection_from_environment()
    return f"server at {connection.url}" if connection else f"own server, {find_label_studio()}"


def _reports() -> str:
    import reports

    home = Path(next(iter(reports.__path__)))
    for needed in ("templates", "fiftyone_plugin"):
        if not any((home / needed).rglob("*.*")):
            raise CurationError(
                f"{home / needed} is empty: the package was installed without its data; install it again"
            )
    return "templates and the FiftyOne plugin are there"


def _disk(project: Path | None) -> str:
    folder = project if project is not None and project.exists() else Path.cwd()
    free = shutil.disk_usage(folder).free
    if free < ROOM_NEEDED:
        raise CurationError(f"only {free / 1024**3:.1f} GiB are free in {folder}; make room for at least 2 GiB")
    return f"{free / 1024**3:.0f} GiB free"


def _project(root: Path) -> str:
    from curation.project import Project
    from curation.words import counted

    project = Project(root)
    missing = [s.path for s in project.samples() if not s.file.exists()]
    if missing:
        raise CurationError(
            f"{counted(len(missing), 'image is not where it was', 'images are not where they were')}, for instance "
            f"{missing[0]}; put back what is missing, or bring it in from its new place with `curate add`"
        )
    return f"{project.settings.name}: {len(project.samples()):,} images, all where they were"


def _ledger(root: Path) -> str:
    from curation.project import Project

    project = Project(root)
    heads = noted_heads(project.paths)
    faults = project.ledger.faults(heads)
    if faults:
        raise CurationError(
            f"it is not as it was written: {'; '.join(faults)}; find out who changed it, and restore a backup"
        )
    number, value = project.ledger.head()
    return f"{number:,} blocks, whole up to {value[:12]}; {len(heads)} heads noted by iterations agree"


def noted_heads(paths: ProjectPaths) -> dict[str, tuple[int, str]]:
    """Number and hash of the ledger's last block as each manifest noted it, by the manifest's place."""
    found = {}
    for file in sorted(paths.iterations.glob("*/*.json")):
        manifest = read_json(file)
        noted = manifest.get("ledger") if isinstance(manifest, dict) else None
        if isinstance(noted, list) and len(noted) == 2:
            found[file.relative_to(paths.root).as_posix()] = (int(noted[0]), str(noted[1]))
    return found
