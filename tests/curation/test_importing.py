"""What comes into a project later: groups stay whole, pool images get their labels, merged classes stay merged."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from tests_stand_ins import draw

from curation.assembly import made_from
from curation.cli import curate
from curation.config import BackboneSettings, DetectionSettings, Settings
from curation.desk import add_class, merge_class, rename_class
from curation.errors import DataError, InputError, ProjectError
from curation.files import for_people
from curation.images import read_image
from curation.importing import Imported
from curation.project import Project
from curation.properties import measure_properties
from curation.runs import ProjectPaths, write_json


class Home:
    """A project on the first of thirty drawn images, and more of them to bring in."""

    def __init__(self, root: Path, rows: Sequence[dict[str, str]]) -> None:
        self.root = root
        pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
        settings = Settings(backbone=BackboneSettings(size=32), detection=DetectionSettings(views="one"))
        self.project, _ = Project.create(root / "project", root / "images", root / "labels.csv", settings=settings)

    def add(self, rows: Sequence[dict[str, str]]) -> Imported:
        pd.DataFrame(rows).to_csv(self.root / "more.csv", index=False)
        return self.project.add(self.root / "images", self.root / "more.csv")

    def labels(self) -> dict[str, str]:
        table = self.project.labels()
        return dict(zip(table["path"], table["label"], strict=True))


def test_a_project_without_a_holdout_is_told_so(tmp_path: Path) -> None:
    rows = [{"path": path, "label": label, "split": "train"} for path, label in draw(tmp_path / "images", 8).items()]
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    _, imported = Project.create(tmp_path / "project", tmp_path / "images", tmp_path / "labels.csv")
    assert [note[:34] for note in imported.notes] == ["no labeled image is in the holdout"]


def test_a_group_that_is_trained_on_gets_no_images_in_the_holdout(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [
        {"path": path, "label": label, "group": f"patient {n // 3}", "split": "train" if n < 18 else "holdout"}
        for n, (path, label) in enumerate(truth.items())
    ]
    home = Home(tmp_path, [row for n, row in enumerate(rows) if n % 3])
    done = home.add([row | {"split": "holdout"} for n, row in enumerate(rows) if n % 3 == 0])
    splits: dict[str | None, set[str]] = {}
    for sample in home.project.samples():
        splits.setdefault(sample.group, set()).add(sample.split)
    assert [splits[f"patient {n}"] for n in range(10)] == [{"train"}] * 6 + [{"holdout"}] * 4
    assert len(done.notes) == 6
    assert done.notes[0].endswith("its group 'patient 0' is trained on; it can't go to the holdout")


def test_labels_that_come_later_for_images_of_the_pool_are_taken(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    paths = list(truth)
    home = Home(tmp_path, [{"path": p, "label": truth[p] if n < 20 else ""} for n, p in enumerate(paths)])
    home.add([{"path": p, "label": truth[p], "split": "train" if n % 2 else ""} for n, p in enumerate(paths[20:26])])
    home.add([{"path": p, "label": truth[p], "split": "pool"} for p in paths[26:28]])
    home.add([{"path": p, "label": truth[p], "split": "holdout"} for p in paths[28:]])
    assert {p: label for p, label in home.labels().items() if label} == {p: truth[p] for p in paths[:26]}
    assert {s.path for s in home.project.samples() if s.split == "pool"} == set(paths[20:])


def test_a_name_of_a_merged_class_counts_for_the_one_it_belongs_to_now(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": p, "label": "links" if n % 4 == 1 else label} for n, (p, label) in enumerate(truth.items())]
    home = Home(tmp_path, rows[:20])
    merge_class(home.project, "links", "left", who="ann")
    home.add(rows[20:])
    expected = {row["path"]: "left" if row["label"] == "links" else row["label"] for row in rows}
    assert home.labels() == expected


def test_a_name_of_before_counts_for_the_class_that_had_it(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": path, "label": label} for path, label in truth.items()]
    home = Home(tmp_path, rows[:20])
    rename_class(home.project, "left", "links", who="ann")
    (tmp_path / "images").rename(tmp_path / "moved")  # brought in from its new place, with new ones
    pd.DataFrame(rows).to_csv(tmp_path / "more.csv", index=False)
    done = home.project.add(tmp_path / "moved", tmp_path / "more.csv")
    assert (done.samples, home.project.classes.names) == (10, ("links", "right"))
    assert home.labels() == {path: "links" if label == "left" else label for path, label in truth.items()}
    assert home.project.ledger.brought() == {}
    assert done.notes == (
        "class 'left' is called 'links' now: 15 rows count for it (`curate classes --add` makes the name another's)",
    )
    add_class(home.project, "left", who="ann")  # a new one of that name has it from then on
    assert home.project.classes.named("left") == home.project.classes.id("left") == "c3"


def test_labels_that_a_later_table_has_for_known_images_are_told_and_make_no_class(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": path, "label": label} for path, label in truth.items()]
    home = Home(tmp_path, rows)
    home.project.judge([home.project.find("002.png").id], "left", person="ann")
    other = [rows[0] | {"label": "left"}, rows[1] | {"label": "purple"}]
    done = home.add([*other, *rows[2:]])  # that people changed a label is no news
    assert (done.samples, done.classes, home.labels()) == (0, ("left", "right"), truth | {"002.png": "left"})
    assert done.notes == (
        "2 images are known with another label, which stays (000.png is 'right', not 'left'): labels change by what "
        "people say, for instance in `curate review`",
    )
    assert home.add(rows).notes == ()
    trained = next(s.path for s in home.project.samples() if s.split == "train")
    moved = home.add([{"path": trained, "label": truth[trained], "split": "holdout"}])
    assert moved.notes == (f"1 image is known in another split, which stays ({trained} is in train)",)


def test_metadata_that_a_later_table_has_for_known_images_is_told(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": path, "label": label, "lot": "12", "site": "a"} for path, label in truth.items()]
    home = Home(tmp_path, rows)
    assert home.add([*(row | {"lot": "12.0"} for row in rows[:-1]), rows[-1] | {"lot": "A1"}][:-1]).notes == ()
    done = home.add([rows[0] | {"camera": "k1"}, rows[1] | {"lot": "13"}, rows[2] | {"lot": ""}, *rows[3:]])
    assert done.notes == (
        "2 images are known with other metadata, which stays (000.png has camera none, not 'k1'): what slices speak of "
        "is fixed when an image first comes",
    )
    assert home.project.find("000.png").metadata == {"lot": 12.0, "site": "a"}
    (told,) = home.add([rows[1] | {"lot": "13"}]).notes
    assert "(001.png has lot '12', not '13')" in told


def test_groups_that_a_later_table_has_for_known_images_are_told(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": path, "label": label, "group": f"g{n}" if n else ""}
            for n, (path, label) in enumerate(truth.items())]  # fmt: skip
    home = Home(tmp_path, rows)
    assert home.add([row | {"group": ""} for row in rows]).notes == ()  # rows that name none say nothing of it
    done = home.add([rows[0] | {"group": "g1"}, rows[1] | {"group": "g2"}, *rows[2:]])
    assert done.notes == (
        "2 images are known in another group, which stays (000.png is in none): groups are fixed when an image first "
        "comes, since train and holdout are divided by them",
    )
    (told,) = home.add([rows[1] | {"group": "g2"}]).notes
    assert "(001.png is in 'g1')" in told


def test_an_image_of_the_pool_whose_label_was_taken_back_gets_that_of_a_later_table(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": path, "label": label if n else ""} for n, (path, label) in enumerate(truth.items())]
    home = Home(tmp_path, rows)
    one = home.project.find("000.png").id
    home.project.judge([one], "left", person="ann")
    home.project.take_back([one], person="ann")
    assert home.labels()["000.png"] == ""
    home.add([{"path": "000.png", "label": truth["000.png"]}])
    assert home.labels() == truth
    assert home.project.ledger.counts()["labeled"] == 30


def test_a_class_that_no_picture_is_taken_for_is_one_of_the_project(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": path, "label": label} for path, label in truth.items()]
    for copy, of in {"odd.png": rows[0]["path"], "strange.png": rows[1]["path"]}.items():
        (tmp_path / "images" / copy).write_bytes((tmp_path / "images" / of).read_bytes())
    home = Home(tmp_path, [*rows, {"path": "odd.png", "label": "odd"}])
    assert home.project.classes.names == ("left", "odd", "right")
    merge_class(home.project, "odd", "left", who="ann")
    home.add([{"path": "odd.png", "label": "odd"}, rows[1], {"path": "strange.png", "label": "strange"}])
    assert home.project.classes.names[-1] == "strange"
    assert {path: label for path, label in home.labels().items() if path in truth} == truth
    strange = home.project.find("strange.png").id
    assert home.project.ledger.brought()[strange] == [
        home.project.classes.id(name) for name in (truth[rows[1]["path"]], "strange")
    ]


def test_a_project_that_is_not_made_anew_keeps_its_secret(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    home = Home(tmp_path, [{"path": path, "label": label} for path, label in truth.items()])
    home.project.judge([s.id for s in home.project.samples()], "left", person="ann")
    secret = home.project.paths.secret.read_text()
    home.project.paths.settings.unlink()
    with pytest.raises(ProjectError, match="put that file back"):
        Project.create(tmp_path / "project", tmp_path / "images", tmp_path / "labels.csv")
    assert home.project.paths.secret.read_text() == secret


def test_rows_that_repeat_a_path_come_in_once(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": path, "label": label} for path, label in truth.items()]
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "".join(f"{r['path']},{r['label']}\n" for r in [*rows, *rows])
    )
    settings = Settings(backbone=BackboneSettings(size=32))
    project, done = Project.create(tmp_path / "p", tmp_path / "images", tmp_path / "labels.csv", settings=settings)
    assert (done.samples, done.rows, done.notes) == (30, 60, ())
    assert list(project.labels()["path"]) == list(truth)


def test_a_class_that_can_not_be_shown_to_people_is_refused_later_too(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": path, "label": label} for path, label in truth.items()]
    home = Home(tmp_path, rows[:20])
    with pytest.raises(DataError, match=r"^class 'le.*ft' can't be shown to people"):
        home.add([{**rows[20], "label": "le\x07ft"}])
    assert len(home.project.samples()) == 20
    assert home.project.classes.names == ("left", "right")


def test_a_path_that_two_images_have_names_neither(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    home = Home(tmp_path, [{"path": path, "label": label} for path, label in truth.items()])
    other = tmp_path / "more"
    draw(other / "spare", 40)
    (other / "000.png").write_bytes((other / "spare" / "035.png").read_bytes())
    home.project.add(other / "spare")
    pd.DataFrame([{"path": "000.png", "label": "left"}]).to_csv(tmp_path / "again.csv", index=False)
    home.project.add(other, tmp_path / "again.csv")
    two = [s.id for s in home.project.ledger.find_samples("000.png")]
    assert len(two) == 2
    with pytest.raises(DataError, match=r"^2 samples have the path '000\.png'; name one by its id: ") as told:
        home.project.find("000.png")
    assert all(sample_id[:12] in str(told.value) for sample_id in two)
    assert [home.project.find(sample_id[:12]).id for sample_id in two] == two
    assert home.project.find(str(tmp_path / "images" / "000.png")).id == two[0]
    assert home.project.find("001.png").path == "001.png"


def test_a_picture_that_comes_with_two_labels_is_flagged_until_people_settle_it(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    first = next(iter(truth))
    (tmp_path / "images" / "again.png").write_bytes((tmp_path / "images" / first).read_bytes())
    other = {"left": "right", "right": "left"}[truth[first]]
    rows = [{"path": path, "label": label, "split": "train"} for path, label in truth.items()]
    home = Home(tmp_path, [*rows, {"path": "again.png", "label": other, "split": "train"}])
    ledger = home.project.ledger
    (sample_id,) = ledger.brought()
    assert sample_id == ledger.find_samples(first)[0].id
    project = home.project

    def issues() -> dict[str, str]:
        flags = project.flag()
        return dict(zip(flags["path"], flags["reason"], strict=True))

    told = issues()
    assert f"the same picture came as {other} too" in told[first]
    assert f"the same picture came as {other} too" in told["again.png"]
    assert sum("the same picture came" in reason for reason in told.values()) == 2
    project.judge([sample_id], truth[first], person="eve")
    assert "the same picture came" not in issues()[first]
    said: list[str] = []
    again = Project(project.root, say=said.append)
    again.judge([again.find("001.png").id], "bad image", person="eve")
    assert "001.png" not in set(again.flag()["path"])
    assert "1 image that people set aside is left out." in said


def deep_images(folder: Path, count: int, largest: int, seed: int = 0) -> None:
    """Grey 16-bit PNGs in two class folders, with values up to ``largest``, which the last of them alone reaches."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        file = folder / ("scratch" if number % 2 else "clean") / f"{seed}-{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, largest // 2, (24, 24)).astype(np.uint16)
        values[0, 0] = largest if number == count - 1 else values[0, 0]
        Image.fromarray(values).save(file)


@pytest.mark.parametrize(("largest", "bits"), [(1_000, 10), (4_095, 12), (16_000, 14), (65_000, 16)])
def test_how_many_bits_images_use_is_found_once_and_read_by_everything(tmp_path: Path, largest: int, bits: int) -> None:
    deep_images(tmp_path / "images", 12, largest)
    project, done = Project.create(tmp_path / "p", tmp_path / "images")
    said = [f"12 images use only {bits} of 16 bits (the largest value is {largest:,}): all are read so"]
    assert [note.partition(", by bits")[0] for note in done.notes] == (said if bits < 16 else [])
    assert f"bits = {bits}\n" in (tmp_path / "p" / "curation.toml").read_text()
    samples = project.samples()
    assert {s.bits for s in (*samples, project.find(samples[0].path))} == {bits}
    looks = measure_properties(samples, project.paths.image_cache(bits) / "properties.parquet")
    expected = [float(read_image(s.file, bits).mean() / 255) for s in samples]
    assert looks["brightness"].tolist() == pytest.approx(expected, abs=1e-3)
    assert min(expected) > 0.1


def test_images_that_use_more_bits_later_are_told_and_change_nothing(tmp_path: Path) -> None:
    deep_images(tmp_path / "images", 12, 4_095)
    project, _ = Project.create(tmp_path / "p", tmp_path / "images")
    deep_images(tmp_path / "more", 4, 4_000, seed=1)
    assert project.add(tmp_path / "more").notes == ()
    deep_images(tmp_path / "much more", 4, 16_000, seed=2)
    (note,) = project.add(tmp_path / "much more").notes
    assert "4 images have values above 4,095 (the largest is 16,000)" in note
    assert "set it to 14" in note
    assert Project(tmp_path / "p").settings.bits == 12


def test_what_was_made_of_images_is_kept_apart_by_how_they_are_read(tmp_path: Path) -> None:
    paths = ProjectPaths(tmp_path)
    assert paths.image_cache(16) == paths.cache
    assert len({paths.image_cache(bits) for bits in (8, 10, 12, 14, 16)}) == 5
    one = Settings()
    assert made_from(one) != made_from(replace(one, bits=12)), "the network in memory keeps features, too"


def test_labelers_get_what_the_model_is_given_and_a_storages_files_as_they_are(tmp_path: Path) -> None:
    deep_images(tmp_path / "images", 4, 4_095)
    project, _ = Project.create(tmp_path / "p", tmp_path / "images")
    samples, settings = project.samples(), project.settings
    files = for_people(samples, settings, project.paths)
    shown = [read_image(files[s.id]).tolist() for s in samples]
    assert shown == [read_image(s.file, 12).tolist() for s in samples]
    stored = replace(settings, review=replace(settings.review, images_url="https://host/{path}"))
    assert for_people(samples, stored, project.paths) == {s.id: s.file for s in samples}


def test_the_next_command_can_be_pasted_wherever_the_project_is(tmp_path: Path) -> None:
    truth, root = draw(tmp_path / "images", 12), tmp_path / "my parts"
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{p},{c}\n" for p, c in truth.items()))
    given = ["init", str(root), "--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels.csv")]
    done = CliRunner().invoke(curate, given)
    assert done.exit_code == 0, done.output
    assert shlex.split(done.output.split("`")[1]) == ["curate", "run", str(root)]


def test_labels_as_of_an_iteration_that_is_over_stay_as_they_were(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    rows = [{"path": p, "label": "links" if n % 4 == 1 else label} for n, (p, label) in enumerate(truth.items())]
    home = Home(tmp_path, [*rows[:18], *({**row, "label": ""} for row in rows[18:20])])
    home.add(rows[20:22])  # before there is a model of the labels as given
    given = home.project.labels(as_of=0)
    assert len(given) == 22
    paths, ledger = home.project.paths, home.project.ledger
    for number, stage in ((0, "train"), (1, "review")):
        paths.iteration(number).mkdir(parents=True)
        write_json(paths.iteration(number) / f"{stage}.json", {})
    ledger.set_state(1, "done")
    home.add(rows[18:])
    assert merge_class(home.project, "links", "left", who="ann") > 0
    for number in (0, 1):
        assert home.project.labels(as_of=number).equals(given)
    now = home.project.labels()
    assert len(now) == 30
    assert set(now["label"]) == {"left", "right"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "nope.pth"], "nope.pth does not exist; correct backbone.weights in curation.toml, or --weights"),
        (["--backbone", "resnt18"], "timm has no model 'resnt18'; did you mean resnet18"),
    ],
)
def test_no_project_is_made_with_a_network_that_is_not_there(tmp_path: Path, options: list[str], message: str) -> None:
    draw(tmp_path / "images" / "left", 8)
    draw(tmp_path / "images" / "right", 8, seed=1)
    done = CliRunner().invoke(curate, ["init", str(tmp_path / "p"), "--images", str(tmp_path / "images"), *options])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert not (tmp_path / "p").exists()
