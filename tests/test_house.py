"""The house keeps its shape: import ranks, lazy imports, one door a library, a quick command line."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("curation", "labeling", "augment", "reports")

#: (rank, place in its rank); a file imports only from lower ranks or an earlier place of its own rank.
ORDER = [
    ["curation.errors", "curation.words"],
    ["curation.records"],
    ["curation.config"],
    ["curation.schema", "curation.ledger", "curation.history", "curation.runs", "curation.goal", "curation.processes",
     "curation.backup", "curation.tables", "curation.images", "curation.dataset", "curation.files",
     "curation.importing", "curation.flags", "curation.predictions", "curation.properties", "curation.quality",
     "curation.engine", "curation.kept"],
    [
        "curation.allocator", "curation.backbone", "curation.features", "curation.copies", "curation.copied",
        "curation.networks",
        "curation.fitting", "curation.training", "curation.parallel", "curation.heads",
        "curation.neighbours", "curation.scaling", "curation.regression", "curation.scoring", "curation.streaming",
        "curation.crossval", "curation.steadying",
        "curation.view_heads", "curation.exports", "curation.ways",
        "curation.flagging", "curation.issues", "curation.evidence", "curation.audit", "curation.slice_words",
        "curation.slice_search", "curation.slices", "curation.tracking",
        "curation.queue", "curation.gain", "curation.credit", "curation.costs",
        "curation.reviews", "curation.releases", "curation.plane", "curation.holdout",
    ],
    ["labeling", "augment", "reports"],
    ["curation.parts", "curation.judging", "curation.loop", "curation.repairing", "curation.account",
     "curation.figures", "curation.reporting", "curation.assembly", "curation.asking", "curation.project",
     "curation.desk", "curation.checking", "curation.doctor", "curation.demo"],
    ["curation.terminal", "curation.cli_labeling", "curation.cli", "reports.fiftyone_plugin"],
]  # fmt: skip

#: Heavy or single-door libraries and the files that may import them.
DOORS = {
    "timm": {"curation/backbone.py", "curation/networks.py"},
    "cleanlab": {"curation/scoring.py", "curation/flagging.py", "curation/issues.py", "labeling/consensus.py"},
    "label_studio_sdk": {"labeling/client.py", "labeling/server.py"},
    "albumentations": {"augment/transforms.py"},
    "ray": {"curation/engine.py"},
    "faiss": {"curation/neighbours.py"},
    "umap": {"curation/plane.py"},
    "fiftyone": {
        "reports/fiftyone_recording.py",
        "reports/app_server.py",
        "reports/fiftyone_plugin/curation/__init__.py",
    },
    "sqlalchemy": {"curation/ledger.py", "curation/schema.py"},
    "jinja2": {"reports/page.py"},
    "click": {"curation/cli.py", "curation/cli_labeling.py", "curation/terminal.py"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def rank_of(module: str) -> tuple[int, int] | None:
    best: tuple[int, int, int] | None = None
    for rank, names in enumerate(ORDER):
        for place, name in enumerate(names):
            if (module == name or module.startswith(name + ".")) and (best is None or len(name) > best[2]):
                best = (rank, place, len(name))
    return best[:2] if best else None


@pytest.mark.parametrize(("module", "file"), [m for m in modules() if m[0] != "curation"], ids=lambda v: str(v))
def test_a_module_imports_only_from_below(module: str, file: Path) -> None:
    mine = rank_of(module)
    assert mine is not None, f"{module} has no place in the house; give it one in design.md and here"
    for imported in imports(file):
        theirs = rank_of(imported)
        if theirs is None or imported.startswith(module):
            continue
        same_package = mine[0] == 5 and imported.split(".")[0] == module.split(".")[0]
        assert theirs < mine or same_package, f"{module} must not import {imported}"


@pytest.mark.parametrize("package", ["labeling", "augment", "reports"])
def test_files_of_a_package_import_one_another_without_cycles(package: str) -> None:
    graph = {
        module: {i for i in imports(file) if i.startswith(package + ".")}
        for module, file in modules()
        if module.startswith(package + ".")
    }
    seen: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"import cycle: {' -> '.join((*path, module))}"
        if module not in seen:
            for following in graph.get(module, set()) & set(graph):
                visit(following, (*path, module))
            seen.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_library_comes_in_by_its_own_door(library: str) -> None:
    users = {
        file.relative_to(ROOT).as_posix()
        for _, file in modules()
        if any(name == library or name.startswith(library + ".") for name in imports(file))
    }
    assert users <= DOORS[library]


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    heavy = [
        "torch",
        "timm",
        "cleanlab",
        "albumentations",
        "fiftyone",
        "label_studio_sdk",
        "sklearn",
        "pandas",
        "scipy",
        "cv2",
    ]
    code = f"import sys, {package}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_in_half_a_second_of_cpu_time() -> None:
    command = [sys.executable, "-c", "from curation.cli import main; main(['--help'])"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # compiled files are there from here on
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env={**os.environ})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5


def test_every_command_is_documented() -> None:
    from curation.cli import curate

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, command in curate.commands.items():
        assert command.help, f"`curate {name}` needs a help text"
        assert f"curate {name}" in readme, f"`curate {name}` is missing from the README"
