"""``curate`` from the shell, on real input with every part real; answers come from a file."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import psutil
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tests_stand_ins import draw

from curation import Project
from curation.exports import load_exported
from curation.images import squash
from curation.processes import birth
from reports.app import running_apps
from reports.fiftyone_store import FiftyOneReporter

pytestmark = pytest.mark.e2e


def curate(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``curate`` and hold it to an exit code."""
    command = [sys.executable, "-c", "from curation.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, f"curate {arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def write_table(file: Path, rows: dict[str, str]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("path", "label"))
        writer.writerows(rows.items())
    return file


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of 120 drawn pictures, 10 labels flipped, after one iteration with a truthful replay."""
    root = tmp_path_factory.mktemp("shell")
    truth = draw(root / "images", 120)
    other = {"left": "right", "right": "left"}
    given = {path: other[name] if n % 12 == 0 else name for n, (path, name) in enumerate(truth.items())}
    write_table(root / "labels.csv", given)
    write_table(root / "answers.csv", truth)
    curate("init", root / "p", "--images", root / "images", "--labels", root / "labels.csv", "--name", "left & right")
    curate("run", root / "p", "--annotator", f"replay:{root / 'answers.csv'}", "--budget", 30)
    return root / "p"


def status(project: Path) -> dict:  # type: ignore[type-arg]  # JSON
    return dict(json.loads(curate("status", project, "--json").stdout))


def test_status_says_what_the_iteration_did_and_was_worth(project: Path) -> None:
    found = status(project)
    iteration = found["iterations"][0]
    low, high = iteration["holdout"]["accuracy_ci"]
    assert (found["project"], iteration["number"], iteration["state"]) == ("left & right", 1, "done")
    assert 8 <= iteration["labels_reviewed"] <= 30  # what is flagged, and controls; not more than the budget
    assert iteration["labels_changed"] >= 6
    assert 0 <= low <= iteration["holdout"]["accuracy"] <= high <= 1
    assert set(iteration["audit"]) >= {"labels_wrong", "labels_wrong_ci", "flagger_precision", "flagger_recall"}
    assert "left & right: 120 images" in curate("status", project).stdout


def test_flag_lists_every_labeled_file_worst_first(project: Path, tmp_path: Path) -> None:
    curate("flag", project, "--out", tmp_path / "flags.csv")
    table = pd.read_csv(tmp_path / "flags.csv", keep_default_na=False, dtype={"issue": str})
    assert list(table.columns) == ["path", "label", "label_quality", "suggested_label", "issue", "reason"]
    assert len(table) == 120
    assert table["label_quality"].is_monotonic_increasing
    assert table["label_quality"].between(0, 1).all()
    assert set(table["issue"]) <= {"true", "false"}


def test_flag_judges_by_the_predictions_of_another_model(project: Path, tmp_path: Path) -> None:
    curate("export", project, "--out", tmp_path / "labels.csv")
    labels = pd.read_csv(tmp_path / "labels.csv")
    given = labels[labels["label"].notna()].head(60)
    names = sorted(given["label"].unique())
    rows = [
        (path, *(0.98 if (name == label) != (number < 3) else 0.02 for name in names))
        for number, (path, label) in enumerate(zip(given["path"], given["label"], strict=True))
    ]
    pd.DataFrame(rows, columns=["path", *names]).to_csv(tmp_path / "mine.csv", index=False)
    said = curate("flag", project, "--out", tmp_path / "flags.csv", "--predictions", tmp_path / "mine.csv")
    flags = pd.read_csv(tmp_path / "flags.csv")
    assert len(flags) == 60
    assert set(flags["path"][:3]) == set(given["path"][:3]), "those that the other model contradicts come first"
    assert flags["issue"].tolist()[:3] == [True] * 3
    assert "labeled images have no row in" in said.stderr
    pd.DataFrame(rows, columns=["path", *names]).drop(columns="right").to_csv(tmp_path / "mine.csv", index=False)
    refused = curate("flag", project, "--out", tmp_path / "x", "--predictions", tmp_path / "mine.csv", code=2)
    assert "no column 'right'" in refused.stderr


def test_history_tells_who_changed_what_and_undo_takes_it_back(project: Path) -> None:
    events = json.loads(curate("history", project, "--json").stdout)
    changed = next(e for e in events if e["what"] == "decision")
    assert changed["cites"] != ""
    curate("undo", project, changed["path"], "--who", "eve")
    last = json.loads(curate("history", project, changed["path"], "--json").stdout)[-1]
    assert (last["what"], last["old"], last["new"], last["who"]) == ("undo", changed["new"], changed["old"], "eve")
    again = curate("undo", project, changed["path"])  # an undo can be undone
    assert f"the label is '{changed['new']}' again" in again.stdout


def test_export_gives_the_labels_now_and_as_given(project: Path, tmp_path: Path) -> None:
    curate("export", project, "--out", tmp_path / "now.csv")
    curate("export", project, "--out", tmp_path / "given.parquet", "--as-of", 0)
    now, given = pd.read_csv(tmp_path / "now.csv"), pd.read_parquet(tmp_path / "given.parquet")
    assert list(now["path"]) == list(given["path"])
    differing = int((now["label"] != given["label"]).sum())
    assert differing == status(project)["iterations"][0]["labels_changed"]


def test_the_model_is_exported_for_others_and_both_files_predict_the_same(project: Path, tmp_path: Path) -> None:
    onnx, tensors = tmp_path / "model.onnx", tmp_path / "model.safetensors"
    said = curate("export", project, "--out", onnx, "--device", "cpu").stdout
    assert "Model of iteration 1" in said
    curate("export", project, "--format", "safetensors", "--iteration", 1, "--out", tensors)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == ["left", "right"]
    with safe_open(str(tensors), framework="pt") as opened:
        prepared = json.loads(opened.metadata()["curation"])
    assert prepared["class_names"] == about["class_names"]
    sides = [side for side, _ in json.loads(prepared["preprocessing"])["views"]]
    labels = pd.read_csv(project.parent / "answers.csv")[:20]
    images = [Image.open(project.parent / "images" / path).convert("RGB") for path in labels["path"]]
    pixels = [np.stack([squash(image, side) for image in images]) for side in sides]
    ours = session.run(["probabilities"], {f"pixels_{s}": p for s, p in zip(sides, pixels, strict=True)})[0]
    with torch.inference_mode():
        theirs = load_exported(tensors.read_bytes())(*map(torch.from_numpy, pixels)).numpy()
    assert np.abs(ours - theirs).max() < 1e-3
    named = np.array(["left", "right"])[ours.argmax(axis=1)]
    assert (named == labels["label"]).mean() >= 0.9


def test_a_device_is_chosen_for_this_time_and_one_that_is_not_there_is_refused(project: Path, tmp_path: Path) -> None:
    before = (project / "curation.toml").read_bytes()
    findings = json.loads(curate("doctor", project, "--device", "cpu", "--json").stdout)
    device = next(f for f in findings if f["what"] == "device")
    assert "the last blocks are fine-tuned" in device["words"]
    curate("flag", project, "--device", "cpu", "--out", tmp_path / "flags.csv")
    assert (project / "curation.toml").read_bytes() == before
    wrong = curate("flag", project, "--device", "tpu", "--out", tmp_path / "x.csv", code=2).stderr
    assert "backbone.device" in wrong
    if not torch.cuda.is_available():
        refused = curate("export", project, "--device", "cuda:3", "--out", tmp_path / "x.onnx", code=2).stderr
        assert "device 'cuda:3' is not there" in refused
        assert not (tmp_path / "x.onnx").exists()


def test_a_release_is_exported_as_it_was_after_labels_have_changed(project: Path, tmp_path: Path) -> None:
    assert "SHA-256" in curate("release", project, "v1", "--who", "Ann", "--note", "first").stdout
    curate("release", project, "v1", code=2)
    opened = Project(project)
    changed = next(s for s in opened.samples() if s.split == "train")
    opened.judge([changed.id], "bad image", person="Ann")
    curate("export", project, "--out", tmp_path / "v1.csv", "--release", "v1")
    curate("export", project, "--out", tmp_path / "now.csv")
    then, now = pd.read_csv(tmp_path / "v1.csv"), pd.read_csv(tmp_path / "now.csv")
    assert (int(now["excluded"].sum() - then["excluded"].sum()), len(then)) == (1, 120)
    [told] = json.loads(curate("release", project, "--json").stdout)
    assert (told["name"], told["who"], told["rows"], len(told["checksum"])) == ("v1", "Ann", 120, 64)
    assert "verdict: bad image  by Ann" in curate("history", project, changed.path).stdout
    curate("undo", project, changed.path, "--who", "Ben")
    assert "withdrawn" in curate("history", project, changed.path).stdout


def test_two_reviewers_apps_start_and_end_together(project: Path) -> None:
    command = [sys.executable, "-c", "from curation.cli import main; main()", "review", str(project)]
    with subprocess.Popen([*command, "--for", "Ann", "--for", "Ben"], stdout=subprocess.PIPE, text=True) as reviewing:
        assert reviewing.stdout is not None
        try:
            said = [reviewing.stdout.readline() for _ in range(2)]
            home = Project(project).paths.fiftyone
            running = running_apps(home)
            assert sorted(app.reviewer for app in running) == ["Ann", "Ben"]
            assert all(f"127.0.0.1:{app.port}" in "".join(said) for app in running)
            page = Project(project).overview().read_text(encoding="utf-8")
            assert all(f"FiftyOne App ({name})" in page for name in ("Ann", "Ben"))
        finally:
            reviewing.terminate()
        assert reviewing.wait(60) == 0
    assert running_apps(home) == []
    assert [birth(app.pid) for app in running] == [None, None]


def test_everything_that_the_report_shows_is_printed_as_json(project: Path) -> None:
    told = json.loads(curate("report", project, "--json").stdout)
    assert told["number"] == 1
    assert told["words"]["changed"].split()[0] == str(told["labels_reviewed"])
    assert Path(told["overview"]).is_file()


def test_the_report_is_one_file_that_names_the_project_escaped(project: Path) -> None:
    page = Path(curate("report", project).stdout.strip())
    text = page.read_text(encoding="utf-8")
    assert "left &amp; right" in text
    assert 'src="http' not in text


def test_what_is_missing_in_fiftyone_is_recorded_when_somebody_reviews(project: Path) -> None:
    opened = Project(project)
    for notes in opened.paths.fiftyone.glob("*notes.json"):
        notes.unlink()  # as where the run was killed while it recorded
    assert opened.fiftyone().recorded() == frozenset()
    try:
        app = opened.review_app()
        app.begin()
        app.stop()
        assert opened.fiftyone().recorded() == {0, 1}
    finally:
        opened.stop_services()


def test_killed_while_it_records_the_next_review_makes_it_good_unasked(project: Path) -> None:
    opened = Project(project)
    reporter = opened.fiftyone()
    reporter.mongo.start()
    command = [sys.executable, "-c", "from curation.cli import main; main()", "review", str(project)]
    with subprocess.Popen([*command, "--rebuild"], stdout=subprocess.PIPE, text=True) as killed:
        give_up = time.monotonic() + 600
        while complete(reporter) != {"it00": False, "it01": True}:  # in the midst of writing the first of two
            assert killed.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        us = psutil.Process(killed.pid)
        for process in [*us.children(recursive=True), us]:
            process.kill()
    running = reporter.mongo._server.find()
    assert running is not None
    psutil.Process(running.pid).kill()  # and the database with them
    assert reporter.recorded() == {1}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reviewing:
        assert reviewing.stdout is not None
        assert "FiftyOne App for" in reviewing.stdout.readline()
        assert complete(reporter) == {"it00": True, "it01": True}
        assert reporter.whole() == {0, 1}
        reviewing.terminate()
        assert reviewing.wait(60) == 0


def complete(reporter: FiftyOneReporter) -> dict[str, bool]:
    """Which iterations the database calls complete."""
    with reporter._opened() as (dataset, _):
        return {key: entry["complete"] for key, entry in dataset.get("info", {}).get("iterations", {}).items()}


def test_samples_that_somebody_deleted_are_there_again_at_the_next_review(project: Path) -> None:
    opened = Project(project)
    reporter = opened.fiftyone()
    try:
        assert reporter.whole() == {0, 1}
        with reporter._opened() as (_, samples):
            samples.delete_many({"split": "holdout"})
        assert reporter.whole() == frozenset()
        app = opened.review_app()
        app.begin()
        app.stop()
        assert reporter.whole() == {0, 1}
    finally:
        opened.stop_services()


def test_more_images_come_in_and_the_holdout_stays(project: Path, tmp_path: Path) -> None:
    before = pd.read_csv(_export(project, tmp_path / "before.csv"))
    draw(tmp_path / "more" / "left", 4, seed=9)
    curate("add", project, "--images", tmp_path / "more")
    after = pd.read_csv(_export(project, tmp_path / "after.csv"))
    assert len(after) == len(before) + 4
    held = before.loc[before["split"] == "holdout", "sample_id"]
    assert sorted(after.loc[after["split"] == "holdout", "sample_id"]) == sorted(held)


def _export(project: Path, file: Path) -> Path:
    curate("export", project, "--out", file)
    return file


def test_the_doctor_finds_everything_well(project: Path) -> None:
    findings = json.loads(curate("doctor", project, "--json").stdout)
    assert [f["what"] for f in findings if not f["ok"]] == []


def test_bad_input_is_one_sentence_and_exit_code_2(project: Path, tmp_path: Path) -> None:
    images = project.parent / "images"
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "one" / "cat" / "text.png"
    text.parent.mkdir(parents=True)
    text.write_text("not an image")
    no_path = tmp_path / "no_path.csv"
    no_path.write_text("file,label\n000.png,cat\n")
    gone = write_table(tmp_path / "gone.csv", {"nowhere.png": "cat", "never.png": "dog"})
    one_class = write_table(tmp_path / "one_class.csv", {"000.png": "cat", "001.png": "cat"})
    single = write_table(tmp_path / "single.csv", {"000.png": "cat", "001.png": "cat", "002.png": "dog"})
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--images", tmp_path / "missing"), "does not exist"),
        (("--images", empty), "holds no images"),
        (("--images", tmp_path / "one"), "text.png"),
        (("--images", images, "--labels", no_path), "no column 'path'"),
        (("--images", images, "--labels", gone), "none of the 2 images can be used"),
        (("--images", images, "--labels", one_class), "at least two classes are needed"),
        (("--images", images, "--labels", single), "class 'dog' has a single image"),
        (("--images", images, "--device", "quantum"), "device"),
    ]
    for number, (arguments, said) in enumerate(cases):
        done = curate("init", tmp_path / f"p{number}", *arguments, code=2)
        lines = done.stderr.strip().splitlines()
        assert said in lines[-1], done.stderr
        assert lines[-1].startswith("Error: "), done.stderr
        assert not (tmp_path / f"p{number}" / "curation.toml").exists()
    curate("init", project, "--images", images, code=2)
    curate("run", project, "--annotator", "nobody", code=2)
    curate("status", tmp_path / "no-project", code=2)
    assert status(project)["iterations"][0]["state"] == "done"


def test_numbers_and_other_scripts_serve_as_class_names(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 30)
    names = {"left": "1", "right": "zażółć 猫"}
    table = write_table(tmp_path / "labels.csv", {path: names[name] for path, name in truth.items()})
    curate("init", tmp_path / "p", "--images", tmp_path / "images", "--labels", table)
    assert status(tmp_path / "p")["classes"] == ["1", "zażółć 猫"]
