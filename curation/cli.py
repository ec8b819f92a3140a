"""``curate``: options in, calls of ``Project``, words or JSON out. Errors are one line and an exit code."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from curation import cli_labeling
from curation.errors import CurationError, InputError, printable
from curation.runs import ended_by_signal, was_interrupted
from curation.terminal import (
    AS_JSON,
    DEVICE,
    DIRECTORY,
    ProgressLine,
    breaks_of,
    how_far,
    open_project,
    print_json,
    say,
    table_of,
    with_interval,
)
from curation.words import quoted

if TYPE_CHECKING:
    from curation.records import SliceStatus


LAST_PORT = 65_535
_LABEL_COLUMN = click.option(
    "--label-column", default="label", show_default=True, help="Column of the table that holds the label."
)


class _Commands(click.Group):
    """Lists commands in the order a newcomer needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="curation-toolkit", prog_name="curate")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (anywhere on the line).")
def curate(debug: bool) -> None:
    """Improve the labels and images of a data set, iteration by iteration, with proof.

    Begin with `curate demo`, or with `curate init` on your own images.
    """


@curate.command()
@DIRECTORY
@click.option(
    "--images",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of images (class folders, or with --labels).",
)
@click.option(
    "--labels", type=click.Path(path_type=Path), help="CSV or Parquet table: path, label, optionally split and group."
)
@_LABEL_COLUMN
@click.option("--backbone", help="A timm model; the default carries its weights along.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Weights of the backbone: a .safetensors or .pth file."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--name", help="Name of the project; the folder's by default.")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option(
    "--ledger", default="", help="Database of the ledger, such as postgresql://USER@HOST/NAME; SQLite if none."
)
def init(
    directory: Path,
    images: Path,
    labels: Path | None,
    label_column: str,
    backbone: str | None,
    weights: Path | None,
    device: str,
    name: str | None,
    seed: int,
    ledger: str,
) -> None:
    """Make a project in DIR from images and labels."""
    from curation.config import BackboneSettings, Settings
    from curation.project import Project

    _check_column(labels, label_column)
    default = BackboneSettings()
    settings = Settings(
        name=name or "",
        seed=seed,
        ledger=ledger,
        backbone=BackboneSettings(backbone or default.name, str(weights.resolve()) if weights else "", 0, device),
    )
    _, imported = Project.create(
        directory, images, labels, label_column=label_column, settings=settings, progress=ProgressLine()
    )
    _tell_import(imported)
    click.echo(
        f"Project made in {directory}. Next: `curate run {quoted(directory)}`, "
        f"or `curate flag {quoted(directory)} --out flags.csv`."
    )


@curate.command()
@DIRECTORY
@click.option("--images", required=True, type=click.Path(path_type=Path), help="Folder of the new images.")
@click.option("--labels", type=click.Path(path_type=Path), help="Table of their labels.")
@_LABEL_COLUMN
def add(directory: Path, images: Path, labels: Path | None, label_column: str) -> None:
    """Bring more images into the project; the holdout stays as it is."""
    _check_column(labels, label_column)
    _tell_import(open_project(directory).add(images, labels, label_column=label_column))


def _check_column(labels: Path | None, label_column: str) -> None:
    if labels is None and label_column != "label":
        raise InputError("--label-column names a column of --labels; give that table, too")


def _tell_import(imported: Any) -> None:
    from curation.words import counted

    splits = ", ".join(f"{count:,} {split}" for split, count in sorted(imported.splits.items()))
    new, rows = counted(imported.samples, "new image", "new images"), counted(imported.rows, "row", "rows")
    click.echo(f"{new} from {rows}: {splits}; classes: {', '.join(imported.classes)}.")
    for title, lines in (
        ("Noticed", list(imported.notes)),
        ("Set aside", [f"{a.where}: {a.reason}" for a in imported.set_aside]),
    ):
        for line in lines[:10]:
            click.echo(f"{title}: {printable(line)}", err=True)
        if len(lines) > 10:
            all_in = "; all of them are in .curation/set-aside.json" if title == "Set aside" else ""
            click.echo(f"{title}: and {len(lines) - 10:,} more{all_in}", err=True)


@curate.command()
@DIRECTORY
@DEVICE
@click.option("--iterations", type=int, help="How many iterations from where the run under way began; a new one has 1.")
@click.option(
    "--annotator", help="label-studio or files (people), or replay:FILE with path,label[,annotator][,seconds]."
)
@click.option("--budget", type=int, help="Reviews an iteration.")
@click.option("--seed", type=int, help="Seed of every random choice.")
@click.option("--trial", is_flag=True, default=None, help="Use the weakest slice's recipe even where it is unproven.")
@click.option("--wait", is_flag=True, help="Wait for people instead of ending in the state 'waiting'.")
@click.option("--close-batch", is_flag=True, help="Go on with the answers that have come.")
def run(
    directory: Path,
    device: str | None,
    iterations: int | None,
    annotator: str | None,
    budget: int | None,
    seed: int | None,
    trial: bool | None,
    wait: bool,
    close_batch: bool,
) -> None:
    """Run iterations: flag, ask people, train, report. Goes on where it stopped."""
    project = open_project(directory, device)
    status = project.run(
        iterations, annotator=annotator, budget=budget, seed=seed, trial=trial, wait=wait, close_batch=close_batch
    )
    click.echo(table_of(status))
    if all(i["state"] == "done" for i in status["iterations"]):
        last = status["iterations"][-1]["number"]
        click.echo(f"Report: {project.paths.iteration(last) / 'report' / 'index.html'}")
        click.echo(f"Browse: curate review {quoted(directory)}")


@curate.command()
@DIRECTORY
@DEVICE
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write: Parquet where it ends in .parquet, else CSV.",
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Judge by your own model: a CSV or Parquet file with 'path' and a column a class, predicted out of sample.",
)
def flag(directory: Path, device: str | None, out: Path, predictions: Path | None) -> None:
    """Judge every label by predictions that have not seen it; write them worst first."""
    from curation.runs import write_whole
    from curation.tables import csv_text, write_frame

    table = open_project(directory, device).flag(predictions)
    if out.suffix.lower() == ".parquet":
        write_frame(out, table)
    else:
        write_whole(out, csv_text(table))
    click.echo(f"{len(table):,} labeled files, {int((table['issue'] == 'true').sum()):,} to look at: {out}")


@curate.command()
@DIRECTORY
@AS_JSON
def status(directory: Path, as_json: bool) -> None:
    """Where the project stands, iteration by iteration."""
    project = open_project(directory)
    found = project.status()
    if project.paths.holdout_flags.exists():
        from curation.checking import holdout_report

        found["holdout_check"] = holdout_report(project)
    if as_json:
        print_json(found)
    else:
        splits = ", ".join(f"{count:,} {split}" for split, count in sorted(found["splits"].items()))
        click.echo(f"{found['project']}: {found['samples']:,} images ({splits}), classes {', '.join(found['classes'])}")
        click.echo(table_of(found))
        for iteration in found["iterations"]:
            for words in how_far(iteration.get("people") or []):
                click.echo(words)
        if "holdout_check" in found:
            click.echo(found["holdout_check"]["check"]["words"])


for _command in (cli_labeling.sync, cli_labeling.adopt, cli_labeling.classes, cli_labeling.guide, cli_labeling.label):
    curate.add_command(_command)


@curate.command()
@DIRECTORY
@click.option("--for", "names", multiple=True, metavar="NAME", help="Who reviews; again for a second reviewer's App.")
@click.option(
    "--port",
    type=click.IntRange(1, LAST_PORT),
    help="Port of the App (of the first, for several); free ones by default.",
)
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on; the App has no login.")
@click.option("--rebuild", is_flag=True, help="Record every iteration again, from the ledger and the tables.")
def review(directory: Path, names: tuple[str, ...], port: int | None, address: str, rebuild: bool) -> None:
    """Open the FiftyOne App on the project, one for each reviewer; Ctrl-C ends all of them."""
    reviewers = list(dict.fromkeys(names)) or [os.environ.get("USER", "reviewer")]
    if port is not None and port + len(reviewers) - 1 > LAST_PORT:
        raise click.UsageError(f"{len(reviewers)} Apps need as many ports from {port} on, and {LAST_PORT} is the last")
    project = open_project(directory)
    apps: list[Any] = []
    try:
        with ended_by_signal():
            for place, name in enumerate(reviewers):
                chosen = None if port is None else port + place
                again = rebuild and not place
                apps.append(project.review_app(port=chosen, address=address, rebuild=again, reviewer=name))
                if not place:
                    if apps[0].warning:
                        click.echo(f"Warning: {apps[0].warning}", err=True)
                    click.echo("The FiftyOne App starts; that takes about ten seconds.", err=True)
                apps[-1].begin()
            for name, app in zip(reviewers, apps, strict=True):
                click.echo(f"FiftyOne App for {name}: {app.start()}   (Ctrl-C ends it)")
            project.overview()  # links to the Apps while they run
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        click.echo("The App is closed." if len(reviewers) == 1 else "The Apps are closed.", err=True)
    finally:
        for app in apps:
            app.stop()
        if apps:
            project.overview()  # leads to what still runs
        project.fiftyone().stop()


@curate.command()
@DIRECTORY
@click.option("--iteration", type=int, help="Which one; the last by default.")
@AS_JSON
def report(directory: Path, iteration: int | None, as_json: bool) -> None:
    """Write an iteration's HTML report again, and the one over all iterations; say where they are."""
    project = open_project(directory)
    page = project.report(iteration)
    overview = project.overview()
    if as_json:
        number = int(page.parent.parent.name)
        print_json({"report": str(page), "overview": str(overview), **project.report_in_full(number)})
        return
    click.echo(str(page))
    click.echo(f"All iterations: {overview}", err=True)


@curate.command()
@DIRECTORY
@click.argument("path", required=False)
@AS_JSON
def history(directory: Path, path: str | None, as_json: bool) -> None:
    """Every label event, verdict and remark, of one image (PATH) or of all."""
    table = open_project(directory).history(path)
    if as_json:
        print_json(json.loads(table.to_json(orient="records", date_format="iso")))
        return
    for row in table.to_dict(orient="records"):
        change = row["new"]
        if row["id"].startswith("event"):
            change = f"{row['old'] or 'no label'} -> {row['new'] or 'no label'}"
        when = f"{row['at']:%Y-%m-%d %H:%M:%S}"
        click.echo(
            f"{when}  {row['path']}  {row['what']}: {change}  "
            f"by {row['who']}{', ' if row['why'] else ''}{row['why']} (iteration {row['iteration']})"
        )


@curate.command()
@DIRECTORY
@click.argument("path")
@click.option("--who", default=lambda: os.environ.get("USER", "user"), help="Who takes it back.")
def undo(directory: Path, path: str, who: str) -> None:
    """Take back the last change of an image's label; the history keeps both."""
    project = open_project(directory)
    event = project.undo(path, who=who)
    if event is None:
        click.echo(f"{path}: the verdict is withdrawn; it had changed nothing.")
        return
    now = "left out" if event.excluded else project.classes.name(event.new) or "no label"
    click.echo(f"{path}: '{project.classes.name(event.old)}' taken back, the label is '{now}' again.")


@curate.command()
@DIRECTORY
@click.option("--open", "opened", metavar="NAME", help="Try to repair this slice again.")
@click.option("--accept", metavar="NAME", help="Live with this slice: no recipe is tried on it.")
@click.option("--collect", metavar="NAME", help="Ask for more images of this slice.")
@click.option("--fixed", metavar="NAME", help="Call this slice fixed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def slices(
    directory: Path, opened: str | None, accept: str | None, collect: str | None, fixed: str | None, as_json: bool
) -> None:
    """The weak slices with their status; set the status of one by its name."""
    project = open_project(directory)
    marks: list[tuple[SliceStatus, str | None]] = [
        ("open", opened), ("accepted", accept), ("collecting", collect), ("fixed", fixed)
    ]  # fmt: skip
    for status, name in marks:
        if name is not None:
            project.mark_slice(name, status)
    found = project.slices()
    if as_json:
        columns = ("name", "status", "size", "errors", "error_rate", "rest_error_rate", "removable", "recipe", "repair")
        print_json([{column: getattr(s, column) for column in columns} for s in found])
        return
    for s in found:
        rates = f"{s.error_rate:4.0%} of {s.size} wrong, elsewhere {s.rest_error_rate:.0%}"
        click.echo(f"{s.status:10}  {rates if s.size else 'no image any more'}: {s.name}")
    if not found:
        click.echo("No group of images stands out as weaker than the rest.")


@curate.command()
@DIRECTORY
@DEVICE
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "parquet", "onnx", "safetensors", "label-studio"]),
    help="Labels as csv or parquet, the model as onnx or safetensors (a timm state dict), by --out's ending; or the "
    "batch that waits for people as label-studio: a folder with tasks, screens, a table to fill in, and images.",
)
@click.option("--as-of", type=int, help="Labels as of the end of this iteration (0: as given).")
@click.option("--release", help="Labels as this release froze them.")
@click.option("--iteration", type=int, help="The model of this iteration; the last by default.")
def export(
    directory: Path,
    device: str | None,
    out: Path,
    file_format: str | None,
    as_of: int | None,
    release: str | None,
    iteration: int | None,
) -> None:
    """Write the labels, one row a path (path, label, split, excluded, group, sample_id), or the model."""
    from curation.runs import write_whole
    from curation.tables import csv_text, write_frame

    chosen = file_format or out.suffix.removeprefix(".").lower()
    if chosen == "label-studio":
        from curation.desk import export_batch

        for file in export_batch(open_project(directory), out):
            click.echo(str(file))
        return
    if chosen in ("onnx", "safetensors"):
        if as_of is not None or release is not None:
            raise InputError("--as-of and --release name labels; name the model with --iteration")
        made = open_project(directory, device).export_model(out, chosen, iteration)
        click.echo(
            f"Model of iteration {made['iteration']}: {out} (probabilities as the model's to {made['difference']:.0e})"
        )
        return
    if as_of is not None and release is not None:
        raise InputError("--as-of and --release name two different states of the labels; give one of them")
    if iteration is not None:
        raise InputError("--iteration names a model; name labels with --as-of")
    table = open_project(directory).labels(as_of=as_of, release=release)
    if chosen == "parquet":
        write_frame(out, table)
    elif chosen == "csv":
        write_whole(out, csv_text(table))
    else:
        raise InputError(f"{out} must end in .csv, .parquet, .onnx or .safetensors, or be given with --format")
    click.echo(f"{len(table):,} rows: {out}")


@curate.command()
@DIRECTORY
@click.option("--check", "count", type=int, help="Ask two people each about so many labels of the holdout.")
@AS_JSON
def holdout(directory: Path, count: int | None, as_json: bool) -> None:
    """How far the holdout's own labels can be trusted, and what each model is worth by the labels as checked."""
    from curation.checking import check_holdout, holdout_report
    from curation.gain import too_few_words

    project = open_project(directory)
    if count is not None:
        asked = check_holdout(project, count)
        where = "They are in Label Studio." if asked["sent"] else "They go out with the next batch (`curate run`)."
        say(
            f"{asked['queued']:,} labels of the holdout are to be checked by two people each, {asked['flagged']:,} of "
            f"them flagged; {asked['open']:,} asked before are not answered yet. {where}"
        )
    told = holdout_report(project)
    if as_json:
        print_json(told)
        return
    click.echo(told["check"]["words"])
    needed = told["rows_needed"]
    if needed and needed > told["rows"]:
        click.echo(too_few_words(told["rows"], needed))
    for row in told["iterations"]:
        line = f"iteration {row['number']}: accuracy {with_interval(row, 'accuracy')} by the labels as given"
        if row["accuracy_checked"] is not None and row["accuracy_checked_ci"] != row["accuracy_ci"]:
            line += f", {with_interval(row, 'accuracy_checked')} as checked"
        if row["gain"] is not None:
            line += f"; gain {_points(row, 'gain')}"
            if row["gain_checked"] is not None:
                line += f", {_points(row, 'gain_checked')} as checked"
        click.echo(line)
    for line in breaks_of(project.status()):
        click.echo(line)


def _points(values: dict[str, Any], key: str) -> str:
    low, high = values[f"{key}_ci"]
    return f"{100 * values[key]:+z.1f} points ({100 * low:+z.1f} to {100 * high:+z.1f})"


@curate.command()
@DIRECTORY
@click.argument("name", required=False)
@click.option("--who", default=lambda: os.environ.get("USER", "user"), help="Who releases.")
@click.option("--note", default="", help="What the release is for.")
@AS_JSON
def release(directory: Path, name: str | None, who: str, note: str, as_json: bool) -> None:
    """Freeze the labels under NAME, for `curate export --release NAME`; without NAME list the releases."""
    project = open_project(directory)
    if name is not None:
        project.release(name, who=who, note=note)
    table = project.releases()
    chosen = table if name is None else table[table["name"] == name]
    if as_json:
        print_json(json.loads(chosen.to_json(orient="records", date_format="iso")))
        return
    for row in chosen.to_dict(orient="records"):
        click.echo(
            f"{row['name']}  {row['at']:%Y-%m-%d %H:%M:%S}  {row['rows']:,} rows, by {row['who']}, "
            f"SHA-256 {row['checksum']}" + (f"  ({row['note']})" if row["note"] else "")
        )
    if table.empty:
        click.echo("No labels are released yet; `curate release DIR NAME` freezes them as they are.")


@curate.command()
@DIRECTORY
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write, such as parts.tar.gz."
)
def backup(directory: Path, out: Path) -> None:
    """Write the ledger, the settings and every iteration into one file, also while a run goes on."""
    from curation.backup import back_up

    project = open_project(directory)
    rows = back_up(project.paths, project.ledger, out)
    click.echo(f"{rows:,} rows of the ledger, settings and iterations: {out}. Images are not in it.")


@curate.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@DIRECTORY
@click.option("--ledger", default="", help="Empty database for the ledger, such as postgresql://USER@HOST/NAME.")
def restore(file: Path, directory: Path, ledger: str) -> None:
    """Make the project of a backup FILE anew in DIR; its ledger in SQLite, or in another database."""
    from curation import backup

    backup.restore(file, directory, ledger=ledger)
    click.echo(f"Project restored in {directory}; `curate doctor {quoted(directory)} --ledger` checks it.")


curate.add_command(cli_labeling.people)


@curate.command()
@DEVICE
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--ledger", is_flag=True, help="Check every row of DIR's ledger against its chain of hashes.")
@AS_JSON
def doctor(directory: Path | None, device: str | None, ledger: bool, as_json: bool) -> None:
    """Check that everything that the toolkit needs is there and works."""
    from curation.doctor import examine

    findings = examine(directory, ledger=ledger, device=device)
    if as_json:
        print_json([f.__dict__ for f in findings])
    else:
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {finding.words}")
    if not all(f.ok for f in findings):
        raise SystemExit(1)


@curate.command()
@click.argument("directory", metavar="[DIR]", default="curation-demo", type=click.Path(path_type=Path))
@click.option("--keep", is_flag=True, help="Leave Label Studio and MongoDB running.")
@click.option("--iterations", default=3, show_default=True, help="How many iterations.")
@click.option("--budget", default=100, show_default=True, help="Reviews an iteration.")
@click.option("--limit", type=int, help="Use only so many images (for a quick look).")
@click.option("--size", type=int, help="Side in pixels that images are resized to.")
@click.option("--seed", default=0, show_default=True, help="Seed of splits, flips and answers.")
def demo(
    directory: Path, keep: bool, iterations: int, budget: int, limit: int | None, size: int | None, seed: int
) -> None:
    """Run the whole loop on photovoltaic-cell images with simulated people, in DIR."""
    from curation.demo import run_demo

    run_demo(
        directory, keep=keep, iterations=iterations, budget=budget, limit=limit, size=size, seed=seed,
        progress=ProgressLine(), say=say, show=click.echo, table_of=table_of,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``curate``; ends the process with 0, 1 (the work failed), 2 (wrong input) or 130 (Ctrl-C)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        code = curate.main(args=given, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _stopped(given)
    except CurationError as error:
        if debug:
            raise
        click.echo(f"Error: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a disk that is full, a folder that may not be written to
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(
            f"Error: {where}{error.strerror or error}; make room or see to its rights, then run the same again",
            err=True,
        )
        sys.exit(1)
    except Exception as error:  # the last resort: one line for the user, the traceback on demand
        if was_interrupted(error):
            _stopped(given)
        if debug:
            raise
        if isinstance(error, UnicodeEncodeError) and (bad := next((a for a in given if not _is_text(a)), None)):
            click.echo(f"Error: '{printable(bad)}' is no UTF-8 text; write it so, or choose another name", err=True)
            sys.exit(2)
        click.echo(
            f"Error: unexpected {type(error).__name__}: {error}; run again with --debug for the traceback", err=True
        )
        sys.exit(1)


def _is_text(argument: str) -> bool:
    """Whether an argument was given as UTF-8; Python takes any bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


def _stopped(given: Sequence[str]) -> NoReturn:
    command = next((argument for argument in given if not argument.startswith("-")), "")
    onward = f" `curate {command}` goes on where it stopped." if command in ("run", "demo") else ""
    click.echo(f"Stopped.{onward}", err=True)
    sys.exit(130)
