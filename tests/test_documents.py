"""Examples in docstrings are run, and what the documents name exists."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest
from test_house import ROOT, modules

#: What only the App and Label Studio, in whose processes they run, can import.
ELSEWHERE = ("reports.fiftyone_plugin", "labeling.label_studio_settings", "labeling.label_studio_keys")
MODULES = [name for name, _ in modules() if not name.startswith(ELSEWHERE)]


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_say_what_happens(module: str) -> None:
    found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0


def test_some_examples_are_there_to_be_run() -> None:
    finder = doctest.DocTestFinder()
    examples = [t for m in MODULES for t in finder.find(importlib.import_module(m)) if t.examples]
    assert len(examples) >= 10


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_and_commands_of_a_page_lead_somewhere(page: Path) -> None:
    from curation.cli import curate

    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (page.parent / link).exists(), f"{page.name} links to {link}"
    for command in re.findall(r"`curate ([a-z]+)", text) + re.findall(r"^curate ([a-z]+)", text, re.MULTILINE):
        assert command in curate.commands, f"{page.name} names `curate {command}`"
