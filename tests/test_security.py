"""What SECURITY.md promises of the code: no pickle is read, nothing listens to everybody, secrets do not show."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from test_house import PACKAGES, ROOT

from curation.errors import DataError
from curation.images import read_image
from labeling.server import Connection

#: Modules that run what they read; where one is imported for something else, and what for.
RUNS_WHAT_IT_READS = ("pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle", "yaml")
EXEMPT = {
    ("curation/backbone.py", "pickle"),  # the name of the error that torch.load raises
    ("curation/copies.py", "joblib"),  # processes of our own, which read nothing but what we hand them
}


@functools.cache
def trees() -> list[tuple[str, ast.Module]]:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return [(f.relative_to(ROOT).as_posix(), ast.parse(f.read_text(encoding="utf-8"))) for f in files]


def calls() -> Iterator[tuple[str, ast.Call, str, dict[str, ast.expr]]]:
    """File, call, the called name in full, and keyword arguments."""
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield file, node, ast.unparse(node.func), {k.arg: k.value for k in node.keywords if k.arg}


def test_nothing_is_imported_that_runs_what_it_reads() -> None:
    found = set()
    for file, tree in trees():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {(file, name.split(".")[0]) for name in names if name.split(".")[0] in RUNS_WHAT_IT_READS}
    assert found == EXEMPT
    assert not {"pickle.load", "joblib.load", "Datalab.load"} & {name for _, _, name, _ in calls()}


def test_weights_are_read_as_weights_only() -> None:
    loads = [(file, keywords) for file, _, name, keywords in calls() if name == "torch.load"]
    assert loads
    for file, keywords in loads:
        assert ast.unparse(keywords["weights_only"]) == "True", file
    for file, _, name, keywords in calls():
        assert "allow_pickle" not in keywords, file
        assert name not in ("eval", "exec", "os.system", "pd.read_pickle"), file
        assert name not in ("torch.export.load", "torch.jit.load", "onnx.load"), file
        assert "shell" not in keywords, file


def test_nothing_listens_to_everybody() -> None:
    for file, tree in trees():
        if file == "reports/app.py":
            continue  # names those addresses, to warn whoever asks for one
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                assert node.value not in ("0.0.0.0", "::"), f"{file}:{node.lineno}"


def test_no_picture_is_opened_in_whatever_format_it_claims() -> None:
    """Pillow looks at a file's bytes, not its name: without this list ``holiday.jpg`` may be PostScript."""
    opened = [(file, keywords) for file, _, name, keywords in calls() if name == "Image.open"]
    assert len(opened) >= 3
    for file, keywords in opened:
        assert "formats" in keywords, file
        assert ast.unparse(keywords["formats"]) == "FORMATS", file


@pytest.mark.parametrize("kind", ["EPS", "TGA", "PCX", "ICO"])
def test_pictures_of_other_formats_are_refused_under_any_name(kind: str, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "holiday.jpg", kind)
    with pytest.raises(DataError, match="not an image of a known format"):
        read_image(tmp_path / "holiday.jpg")


@pytest.mark.parametrize("show", [repr, str])
def test_a_token_does_not_show(show: object, tmp_path: Path) -> None:
    connection = Connection("http://127.0.0.1:1", "very-secret-token", tmp_path)
    assert "very-secret" not in show(connection)  # type: ignore[operator]
