"""The Curation panel's words: FiftyOne itself is replaced by nothing here, since only its pure functions are read."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import reports
from reports.fiftyone_store import iteration_facts
from tests.reports.cases import make_summary

SOURCE = Path(reports.__file__).parent / "fiftyone_plugin" / "curation" / "__init__.py"


@pytest.fixture(scope="module")
def panel() -> dict[str, Callable[..., Any]]:
    """The panel's functions without its class, which would need FiftyOne's seven seconds of import."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    kept = [
        node
        for node in tree.body
        if not isinstance(node, ast.ClassDef) and not (isinstance(node, ast.Import) and "fiftyone" in ast.dump(node))
    ]
    names: dict[str, Any] = {}
    exec(compile(ast.Module(kept, []), str(SOURCE), "exec"), names)
    return names


@pytest.fixture(scope="module")
def facts() -> Mapping[str, Any]:
    return iteration_facts(make_summary([Path(f"{n}.png") for n in range(24)], 2)) | {"complete": True}


def test_iteration_that_was_cut_off_is_not_shown(panel: Any, facts: Mapping[str, Any]) -> None:
    cut = {**facts, "number": 3, "complete": False}
    assert panel["complete_iterations"]({"iterations": {"it03": cut, "it02": facts}}) == [facts]
    assert panel["complete_iterations"]({}) == []


def test_table_holds_text_only(panel: Any, facts: Mapping[str, Any]) -> None:
    [row] = panel["table_rows"]([facts])
    assert row == {"number": "2", "changed": "2 of 40", "issues": "3", "accuracy": "79.0 % (74.0 to 84.0 %)"}


def test_names_are_plain_text_in_markdown(panel: Any, facts: Mapping[str, Any]) -> None:
    words = panel["headline"](facts) + panel["slice_words"](facts)
    assert "\\<script\\>" in words
    assert "\\<b\\>dim" in words
    assert panel["plain"]("[x](http://y)\n# z") == "\\[x\\](http://y) \\# z"


def test_button_is_short_and_without_its_iteration(panel: Any) -> None:
    assert panel["button_words"]("Iteration 3: labels that people changed") == "Labels that people changed"
    assert len(panel["button_words"]("x" * 200)) == 61
