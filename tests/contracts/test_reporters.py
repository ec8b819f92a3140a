"""What every way of reporting an iteration promises: HTML pages and FiftyOne keep the same three."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Protocol

import pytest

from reports.fiftyone_store import FiftyOneReporter
from reports.page import HtmlReporter
from tests.reports.cases import CLASSES, PROJECT, make_images, make_summary, make_table


class Reporting(Protocol):
    """A reporter with the means to see what it left."""

    def record(self, number: int, count: int) -> None:
        """Record the iteration over the first ``count`` images."""

    def left(self) -> Any:
        """Everything recorded, comparable, without times and object ids."""

    def iterations(self) -> list[int]:
        """The numbers of the iterations that can be looked at."""

    def names(self) -> set[str]:
        """Class and project names as a reader gets to see them."""


class _Text(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")], "a name became an event handler"

    def handle_data(self, data: str) -> None:
        self.text += data


class HtmlReporting:
    """Pages in a folder an iteration."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.folder, self.files = folder, files

    def record(self, number: int, count: int) -> None:
        HtmlReporter().write(make_summary(self.files, number), self.folder / f"{number:03d}")

    def left(self) -> Any:
        return {file.relative_to(self.folder): file.read_bytes() for file in self.folder.rglob("*") if file.is_file()}

    def iterations(self) -> list[int]:
        return sorted(int(file.parent.name) for file in self.folder.glob("*/index.html"))

    def names(self) -> set[str]:
        pages = [_Text(file.read_text(encoding="utf-8")) for file in self.folder.glob("*/index.html")]
        assert not {"script", "b", "i", "u"} & set().union(*(page.tags for page in pages))
        return {name for name in (PROJECT, *CLASSES) if all(name in page.text for page in pages)}


class FiftyOneReporting:
    """A dataset in a real MongoDB, read without FiftyOne."""

    def __init__(self, folder: Path, files: list[Path]) -> None:
        self.files, self.reporter = files, FiftyOneReporter(folder, PROJECT, "0123456789abcdef")

    def record(self, number: int, count: int) -> None:
        self.reporter.record(make_summary(self.files, number), make_table(self.files[:count], number))

    def _dataset(self) -> tuple[Any, list[Any]]:
        from pymongo import MongoClient

        client: MongoClient[Any]
        with MongoClient(self.reporter.mongo.start()) as client:
            database: Any = client["fiftyone"]
            [dataset] = database["datasets"].find({"name": self.reporter.open_dataset_name()})
            return dataset, list(database[dataset["sample_collection_name"]].find())

    def left(self) -> Any:
        dataset, samples = self._dataset()
        fields = sorted(field["name"] for field in dataset["sample_fields"])
        counts = {name: len(dataset[name]) for name in ("saved_views", "workspaces", "evaluations", "brain_methods")}
        values = {s["uid"]: {k: _value(v) for k, v in s.items() if not _changes(k)} for s in samples}
        return fields, counts, values

    def iterations(self) -> list[int]:
        dataset, _ = self._dataset()
        return [entry["number"] for entry in dataset["info"]["iterations"].values() if entry["complete"]]

    def names(self) -> set[str]:
        dataset, samples = self._dataset()
        assert not set("<>&\"'{}") & set(dataset["name"]), "the dataset's name stands in addresses"
        labels = {sample[field]["label"] for sample in samples for field in ("given",) if sample[field]}
        return labels | {dataset["info"]["project"]}


def _changes(field: str) -> bool:
    return field.startswith("_") or field.endswith("_at")


def _value(value: Any) -> Any:
    return {k: v for k, v in value.items() if k != "_id"} if isinstance(value, dict) else value


@dataclass
class Seen:
    """What was there after recording iteration 1, after recording it again, and after iteration 2."""

    reporting: Reporting
    once: Any
    twice: Any
    iterations_once: list[int]


@pytest.fixture(scope="module", params=[HtmlReporting, pytest.param(FiftyOneReporting, marks=pytest.mark.e2e)])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    files = make_images(tmp_path_factory.mktemp("images"))
    reporting = request.param(tmp_path_factory.mktemp("reports"), files)
    try:
        reporting.record(1, 20)
        once, iterations = reporting.left(), reporting.iterations()
        reporting.record(1, 20)
        twice = reporting.left()
        reporting.record(2, 24)
        yield Seen(reporting, once, twice, iterations)
    finally:
        if isinstance(reporting, FiftyOneReporting):
            reporting.reporter.stop()


def test_recording_an_iteration_again_leaves_what_recording_it_once_left(seen: Seen) -> None:
    assert seen.iterations_once == [1]
    assert seen.once == seen.twice


def test_second_iteration_stands_beside_the_first(seen: Seen) -> None:
    assert seen.reporting.iterations() == [1, 2]


def test_awkward_names_arrive_as_they_are_and_are_never_markup(seen: Seen) -> None:
    assert seen.reporting.names() == {PROJECT, *CLASSES}
