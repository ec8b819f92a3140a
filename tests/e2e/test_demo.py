"""``curate demo`` on a reduced data set: real images, backbone, Label Studio, MongoDB and FiftyOne."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest

from curation.demo import plan, read_elpv

pytestmark = pytest.mark.e2e

CURATE = [sys.executable, "-c", "from curation.cli import main; main()"]
REDUCED = ["--limit", "200", "--iterations", "2", "--budget", "20", "--size", "64"]


def ours(folder: Path) -> list[psutil.Process]:
    """Processes that were started for a project in ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        said = " ".join(process.info["cmdline"] or []) + " ".join((process.info["environ"] or {}).values())
        if str(folder) in said and process.pid != psutil.Process().pid:
            found.append(process)
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "elpv"
    done = subprocess.run([*CURATE, "demo", str(folder), *REDUCED], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout + done.stderr


def test_the_demo_says_what_it_did_to_the_labels_and_shows_each_iteration(demo: tuple[Path, str]) -> None:
    folder, said = demo
    assert "On purpose, 12 of the 121 train labels are flipped" in said
    status = json.loads(subprocess.run([*CURATE, "status", str(folder), "--json"], capture_output=True).stdout)
    assert [i["state"] for i in status["iterations"]] == ["done", "done"]
    assert [i["labels_reviewed"] for i in status["iterations"]] == [20, 20]
    wrong = [status["baseline"]["still_wrong"], *(i["still_wrong"] for i in status["iterations"])]
    assert wrong[0] == 12
    assert wrong[2] <= wrong[1] <= wrong[0] - 4
    assert all(i["holdout"]["balanced_accuracy_ci"] for i in status["iterations"])
    assert "curate review" in said
    assert "curate label" in said


def test_two_people_answered_through_label_studio_and_each_verdict_is_in_the_ledger(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    done = subprocess.run([*CURATE, "history", str(folder), "--json"], capture_output=True, text=True, check=True)
    verdicts = [e for e in json.loads(done.stdout) if e["what"] == "verdict"]
    assert len(verdicts) == 2 * 2 * 20
    assert len(Counter(v["who"] for v in verdicts)) == 2


def test_the_report_lies_where_the_demo_says(demo: tuple[Path, str]) -> None:
    _, said = demo
    page = next(line.split()[-1] for line in said.splitlines() if line.startswith("Report:"))
    assert "ELPV demo" in Path(page).read_text(encoding="utf-8")


def test_nothing_is_left_running(demo: tuple[Path, str]) -> None:
    assert ours(demo[0]) == []


def test_a_second_run_is_quick_and_changes_nothing(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    before = (folder / ".curation" / "ledger.db").stat().st_size
    began = time.monotonic()
    again = subprocess.run([*CURATE, "demo", str(folder), *REDUCED], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 30
    assert "Report:" in again.stdout
    assert (folder / ".curation" / "ledger.db").stat().st_size == before


def test_ctrl_c_stops_everything_that_the_demo_started(tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    with subprocess.Popen(
        [*CURATE, "demo", str(folder), *REDUCED],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "Training on the labels as given" in line:
                break
        time.sleep(3)
        running.send_signal(signal.SIGINT)
        said = running.stdout.read()
        assert running.wait(60) == 130, said
    assert ours(folder) == []


def test_the_demos_plan_is_stratified_seeded_and_flips_a_tenth_of_train() -> None:
    _, cells = read_elpv()
    planned = plan(cells, seed=0)
    table = pd.DataFrame(
        [(p.split, p.cell.truth, p.cell.wafer, p.label) for p in planned], columns=["split", "truth", "wafer", "label"]
    )
    assert dict(table["split"].value_counts(normalize=True).round(2)) == {"train": 0.6, "pool": 0.2, "holdout": 0.2}
    train = table[table["split"] == "train"]
    assert (train["truth"] != train["label"]).mean() == pytest.approx(0.1, abs=0.001)
    holdout = table[table["split"] == "holdout"]
    assert (holdout["truth"] == holdout["label"]).all()
    assert table[table["split"] == "pool"]["label"].isna().all()
    assert (train["truth"] == "defective").mean() == pytest.approx((holdout["truth"] == "defective").mean(), abs=0.01)
    assert plan(cells, seed=0) == planned
    assert plan(cells, seed=1) != planned
