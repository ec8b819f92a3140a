"""Make the README's pictures: a small project of drawn parts, run for real, and looked at in a browser.

    python docs/pictures.py [--only labeling]

Writes docs/pictures/{labeling,app,report}.png. The parts are drawn here, so that the pictures are ours to give away.
Takes about four minutes; needs what the tests need (Label Studio, FiftyOne's MongoDB, Chromium).
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `benchmarks` is not installed

from benchmarks.browser import chromium
from curation import Project
from curation.config import ReviewSettings, Settings
from labeling.person import LabelStudioPerson
from labeling.server import add_person, person_token

if TYPE_CHECKING:
    from playwright.sync_api import Page

EMAIL, PASSWORD = "ada@example.com", "pictures-of-washers"
HERE = Path(__file__).resolve().parent / "pictures"
SIDE, COUNT, FLIPPED = 240, 420, 0.1


def main() -> None:
    """Draw, run one iteration with a person who knows the truth, and take the pictures on the way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("labeling",), help="the labeling screen alone, in about a minute")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "washers"
        truth = draw_parts(Path(made) / "images", folder)
        settings = Settings(name="Washers", review=ReviewSettings(budget=40, opinions=1))
        project, _ = Project.create(folder, Path(made) / "images", folder / "labels.csv", settings=settings, say=print)
        try:
            project.run(1, annotator="label-studio")
            person = come_to_work(project)
            with chromium() as page:
                take_labeling(project, page)
            if options.only:
                return
            answer(project, person, truth)
            project.run()
            with chromium() as page:
                take_report_and_app(project, page)
        finally:
            project.stop_services()
    for file in HERE.glob("*.png"):  # a third of the size, and nobody sees the difference
        Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)


def draw_parts(images: Path, folder: Path) -> dict[str, str]:
    """Washers, ``good`` or ``cracked``, on a bench in changing light; a tenth of the train labels is exchanged."""
    rng = np.random.default_rng(7)
    images.mkdir(parents=True)
    folder.mkdir(parents=True)
    truth, rows = {}, []
    for number in range(COUNT):
        name = "cracked" if rng.random() < 0.4 else "good"
        light = "lamp" if rng.random() < 0.25 else "daylight"
        path = f"{number:04d}.png"
        one_part(rng, cracked=name == "cracked", lamp=light == "lamp").save(images / path)
        truth[path] = name
        split = "holdout" if number % 5 == 0 else "train"
        wrong = split == "train" and rng.random() < FLIPPED
        given = {"good": "cracked", "cracked": "good"}[name] if wrong else name
        rows.append((path, given, split, light))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("path", "label", "split", "light"), *rows])
    return truth


def one_part(rng: np.random.Generator, *, cracked: bool, lamp: bool) -> Image.Image:
    """One washer as a picture of SIDE x SIDE pixels."""
    big = SIDE * 2
    y, x = np.mgrid[0:big, 0:big] / big
    wood = 120 + 14 * np.sin(60 * (x + 0.05 * np.sin(7 * y + rng.uniform(0, 6)))) + rng.normal(0, 5, (big, big))
    ground = np.stack([wood * 1.0, wood * 0.86, wood * 0.68], axis=2)
    centre = rng.uniform(0.42, 0.58, 2)
    radius, hole = rng.uniform(0.30, 0.38), rng.uniform(0.10, 0.16)
    distance = np.hypot(x - centre[0], y - centre[1])
    angle = np.arctan2(y - centre[1], x - centre[0])
    metal = 168 + 34 * np.cos(2 * angle + rng.uniform(0, 6)) + 10 * np.sin(190 * distance) + rng.normal(0, 4, x.shape)
    part = np.stack([metal * 0.97, metal, metal * 1.04], axis=2)
    inside = ((distance < radius) & (distance > hole))[:, :, None]
    shadow = np.clip(
        1 - 0.55 * np.exp(-(((np.hypot(x - centre[0] - 0.03, y - centre[1] - 0.04) - radius) / 0.03) ** 2)), 0, 1
    )
    pixels = np.where(inside, part, ground * shadow[:, :, None])
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    if cracked:
        turn = rng.uniform(0, 2 * np.pi)
        steps = np.linspace(hole + 0.005, radius - 0.005, 9)
        turns = turn + np.cumsum(rng.normal(0, 0.05, 9))
        line = [
            tuple(float(v) * big for v in centre + r * np.array([np.cos(t), np.sin(t)]))
            for r, t in zip(steps, turns, strict=True)
        ]
        pen.line(line, fill=(42, 40, 38), width=int(rng.integers(4, 8)))
    else:
        for _ in range(int(rng.integers(0, 3))):  # scratches, which are no cracks
            a = centre + rng.uniform(-0.2, 0.2, 2)
            b = a + rng.uniform(-0.12, 0.12, 2)
            pen.line([*(a * big), *(b * big)], fill=(205, 207, 210), width=2)
    image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    if lamp:
        dark = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), dtype=float) * np.array([0.62, 0.5, 0.36])
        image = Image.fromarray(dark.clip(0, 255).astype(np.uint8))
    return image


def come_to_work(project: Project) -> LabelStudioPerson:
    """An account for one labeler."""
    connection = project.label_studio().start()
    add_person(connection, EMAIL, PASSWORD)
    return LabelStudioPerson(connection.url, person_token(connection, EMAIL, PASSWORD))


def answer(project: Project, person: LabelStudioPerson, truth: Mapping[str, str]) -> None:
    """Let the person answer the waiting batch with the truth."""
    path_of = {s.id: s.path for s in project.samples()}
    queue = project.ledger.queue(project.ledger.iterations()[-1].number)
    answers = {e.key: project.classes.id(truth[path_of[e.sample_id]]) for e in queue}
    person.answer(project.ledger.about()["id"], answers.get, lambda _key: 2.0)


def take_labeling(project: Project, page: Page) -> None:
    """The screen of a labeler who begins the stream of flagged images."""
    access = project.labeling_access()
    page.goto(access["url"] + "/user/login/")
    page.fill("input[name=email]", EMAIL)
    page.fill("input[name=password]", PASSWORD)
    page.click("button[type=submit]")
    page.wait_for_load_state("networkidle")
    page.goto(access["streams"]["shown"])
    page.wait_for_selector(".ct-progress", timeout=60_000)
    page.wait_for_timeout(5_000)
    page.screenshot(path=HERE / "labeling.png")


def take_report_and_app(project: Project, page: Page) -> None:
    """The report of the iteration, and the App as `curate review` opens it."""
    page.goto((project.paths.iteration(1) / "report" / "index.html").as_uri())
    page.screenshot(path=HERE / "report.png")
    app = project.review_app()
    try:
        page.goto(app.start())
        page.wait_for_selector("text=What to look at, in this order", timeout=60_000)
        page.wait_for_timeout(5_000)
        if page.get_by_text("Dismiss").count():  # an advertisement that comes up once
            page.get_by_text("Dismiss").click()
            page.wait_for_timeout(1_000)
        page.screenshot(path=HERE / "app.png")
    finally:
        app.stop()


if __name__ == "__main__":
    main()
