"""What the Curation panel says and draws."""

from __future__ import annotations

import base64
import importlib.util
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from curation.errors import DatabaseError
from curation.reviews import Judged
from reports import panel
from reports.fiftyone_plan import iteration_facts
from reports.fiftyone_store import PLUGINS_FOLDER
from tests.reports.cases import make_images, make_summary


@pytest.fixture(scope="module")
def facts() -> Mapping[str, Any]:
    return iteration_facts(make_summary([Path(f"{n}.png") for n in range(24)], 2)) | {"complete": True}


class Undone:
    """A project of which a reviewer's last verdicts can't be taken back; ``at`` says where that shows."""

    def __init__(self, at: str) -> None:
        self.at = at

    def last_judged(self, _person: str) -> list[str]:
        return self._or_fail("last_judged", ["s1"])

    def take_back(self, *_: object, **__: object) -> Judged:
        return self._or_fail("take_back", Judged(("s1",)))

    def live(self, _ids: object) -> list[Any]:
        return []

    def _or_fail(self, at: str, value: Any) -> Any:
        if at == self.at:
            raise DatabaseError("the ledger does not answer; try again")
        return value


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("last_judged", [("error", "the ledger does not answer; try again")]),
        ("take_back", [("error", "the ledger does not answer; try again")]),
        ("nothing", [("success", "1 decision taken back, 0 labels changed.")]),
    ],
)
def test_last_verdicts_that_can_not_be_taken_back_are_told(
    at: str, told: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = SimpleNamespace(Operator=object, Panel=object, types=SimpleNamespace())
    for name, module in (("fiftyone", SimpleNamespace(operators=operators)), ("fiftyone.operators", operators),
                         ("fiftyone.operators.types", operators.types)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    file = PLUGINS_FOLDER / "curation" / "__init__.py"
    made = importlib.util.spec_from_file_location("curation_panel_alone", file)
    assert made is not None
    assert made.loader is not None
    plugin = importlib.util.module_from_spec(made)
    made.loader.exec_module(plugin)
    monkeypatch.setattr(plugin, "_project", lambda: Undone(at))
    said: list[tuple[str, str]] = []
    ops = SimpleNamespace(
        notify=lambda words, variant: said.append((variant, words)), clear_selected_samples=lambda: None,
        reload_dataset=lambda: None,
    )  # fmt: skip
    plugin.CurationPanel.undo_last(None, SimpleNamespace(ops=ops, dataset=SimpleNamespace(_sample_collection=None)))
    assert said == told


def test_iteration_that_was_cut_off_is_not_shown(facts: Mapping[str, Any]) -> None:
    cut = {**facts, "number": 3, "complete": False}
    assert panel.complete_iterations({"iterations": {"it03": cut, "it02": facts}}) == [facts]
    assert panel.complete_iterations({}) == []


def test_table_holds_text_only(facts: Mapping[str, Any]) -> None:
    [row] = panel.table_rows([facts])
    assert row == {"number": "2", "changed": "2 of 40", "issues": "3", "accuracy": "79.0 % (74.0 to 84.0 %)"}


def test_names_are_plain_text_in_markdown(facts: Mapping[str, Any]) -> None:
    words = panel.headline(facts) + panel.slice_words(facts["slices"][0])
    assert "\\<script\\>" in words
    assert "\\<b\\>dim" in words
    assert panel.plain("[x](http://y)\n# z") == "\\[x\\](http://y) \\# z"


def test_button_is_short_and_without_its_iteration() -> None:
    assert panel.button_words("Iteration 3: labels that people changed") == "Labels that people changed"
    assert len(panel.button_words("x" * 200)) == 61


def test_the_first_view_that_holds_an_image_is_looked_at_first() -> None:
    assert panel.first_to_look_at([0, 27, 5]) == 1
    assert panel.first_to_look_at([3, 0]) == 0
    assert panel.first_to_look_at([]) == 0


def test_curve_has_a_point_with_its_interval_an_iteration(facts: Mapping[str, Any]) -> None:
    assert panel.curve([facts]) is None
    drawn = panel.curve([{**facts, "number": 0, "point": [0.75, 0.7, 0.85]}, {**facts, "point": None}, facts])
    assert drawn is not None
    [line] = drawn[0]
    assert line["x"] == [0, 2]
    assert line["y"] == pytest.approx([75, 79])
    assert (line["error_y"]["array"][0], line["error_y"]["arrayminus"][0]) == pytest.approx((10, 5))


def test_flagging_is_judged_in_words_where_it_is_known(facts: Mapping[str, Any]) -> None:
    assert "Of the flagged labels, really wrong: 70.0 %" in panel.audit_words(facts)
    assert panel.audit_words({}) == panel.cause_words({}) == ""


def test_typical_pictures_stand_side_by_side_and_a_broken_one_is_left_out(tmp_path: Path) -> None:
    files = make_images(tmp_path, 2)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    whole = panel.strip([*files, tmp_path / "broken.png"])
    assert whole == panel.strip(files)
    assert whole.startswith("data:image/jpeg;base64,")
    assert panel.strip([tmp_path / "missing.png"]) == ""


def test_deep_grey_and_transparent_pictures_are_drawn_as_in_the_report(tmp_path: Path) -> None:
    deep, clear = tmp_path / "deep.tif", tmp_path / "clear.png"
    Image.fromarray(np.linspace(10, 4_095, 64 * 64).reshape(64, 64).astype(np.uint16)).save(deep)
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(clear)
    sheet = Image.open(io.BytesIO(base64.b64decode(panel.strip([deep, clear], 64, 12).partition(",")[2]))).convert("L")
    shades = np.asarray(sheet)
    assert (shades[:, :64].min() < 10, shades[:, :64].max() > 245) == (True, True)
    assert shades[:, 70:].min() > 250
