"""The commands about people who label: their accounts, classes, the class guide, Label Studio and its answers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from curation.terminal import AS_JSON, DIRECTORY, WHO, ProgressLine, how_far, open_project, print_json
from curation.words import quoted


@click.command()
@DIRECTORY
@click.option(
    "--from",
    "file",
    type=click.Path(path_type=Path),
    help="Answers in a file instead: Label Studio's JSON export, of ours or any project, or a CSV with key and label.",
)
@AS_JSON
def sync(directory: Path, file: Path | None, as_json: bool) -> None:
    """Take the answers that have come from Label Studio, or in a file, into the ledger."""
    if file is not None:
        _sync_file(directory, file, as_json)
        return
    from curation.desk import sync_adopted

    project = open_project(directory)
    adopted = sync_adopted(project)
    counts = project.sync() | ({"adopted": adopted} if adopted["tasks"] or adopted["set_aside"] else {})
    if as_json:
        print_json(counts)
    else:
        if adopted["tasks"]:
            click.echo(f"Adopted projects: {adopted['answers']:,} answers, {adopted['new']:,} of them new.")
        _tell_set_aside(adopted["set_aside"])
        if counts["state"] is None:
            click.echo(f"Iteration {counts['iteration']} has not begun, so nobody is asked anything yet.")
            return
        click.echo(
            f"Iteration {counts['iteration']} ({counts['state']}): {counts['answered']:,} of {counts['queued']:,} "
            f"images answered, {counts['missing']:,} answers to come."
        )
        for row in counts["people"]:
            click.echo(f"  {row['person']}: {row['answered']:,} of {row['asked']:,} answered")


def _sync_file(directory: Path, file: Path, as_json: bool) -> None:
    from curation.desk import sync_file
    from curation.words import counted

    found = sync_file(open_project(directory), file)
    if as_json:
        print_json(found)
        return
    click.echo(f"{file}: {counted(found['answers'], 'answer', 'answers')}, {found['new']:,} of them new.")
    _tell_set_aside(found["set_aside"])


@click.command()
@DIRECTORY
@click.argument("which", metavar="PROJECT")
@AS_JSON
def adopt(directory: Path, which: str, as_json: bool) -> None:
    """Take over a Label Studio PROJECT (number or title): images, answers, people; makes DIR where it is no project."""
    from curation import desk

    found = desk.adopt(directory, which, progress=ProgressLine(), say=lambda words: click.echo(words, err=True))
    if as_json:
        print_json(found)
        return
    click.echo(f"'{found['project']}': {found['tasks']:,} tasks, {found['answers']:,} answers, {found['new']:,} new; "
               f"`curate sync {quoted(directory)}` takes what comes from now on.")  # fmt: skip
    _tell_set_aside(found["set_aside"])


@click.command()
@DIRECTORY
@click.option("--add", metavar="NAME", help="Add a class.")
@click.option("--rename", nargs=2, metavar="NAME NEW", help="Give a class another name; labels and answers keep it.")
@click.option("--merge", nargs=2, metavar="NAME INTO", help="Let a class be part of another; its labels move.")
@WHO
@AS_JSON
def classes(
    directory: Path, add: str | None, rename: tuple[str, str] | None, merge: tuple[str, str] | None, who: str,
    as_json: bool,
) -> None:  # fmt: skip
    """The classes; add, rename or merge one, also while tasks are open (`curate label` renews the screens)."""
    from curation import desk

    project = open_project(directory)
    if add is not None:
        desk.add_class(project, add, who=who)
    if rename is not None:
        desk.rename_class(project, *rename, who=who)
    if merge is not None:
        from curation.words import counted

        moved = desk.merge_class(project, *merge, who=who)
        click.echo(f"'{merge[0]}' is part of '{merge[1]}' now; {counted(moved, 'label', 'labels')} moved.", err=True)
    names = list(project.classes_asked().names)
    if as_json:
        print_json(names)
    else:
        click.echo("\n".join(names))


@click.command()
@DIRECTORY
@click.option("--rule", "text", metavar="TEXT", help="Write this into the guide, for --class.")
@click.option("--class", "names", multiple=True, metavar="NAME", help="The class it is about; twice for a pair.")
@WHO
@AS_JSON
def guide(directory: Path, text: str | None, names: tuple[str, ...], who: str, as_json: bool) -> None:
    """The class guide: what people disagree on, and rulings, which stand beside the next batch's tasks."""
    from curation import desk

    project = open_project(directory)
    if text is not None:
        ruling = desk.rule(project, names, text, who=who)
        about = " and ".join(f"'{project.classes.name(c)}'" for c in ruling.class_ids)
        click.echo(f"The guide says of {about}: {ruling.text}")
        return
    table, questions = desk.disputes(project), desk.open_questions(project)
    texts = {project.classes.name(c): words for c, words in project.guide_texts().items()}
    if as_json:
        parts = {"disputes": table, "questions": questions}
        found = {name: json.loads(part.to_json(orient="records")) for name, part in parts.items()}
        print_json({"guide": texts, **found})
        return
    for name, words in texts.items():
        click.echo(f"{name}: {words}")
    for row in table.to_dict(orient="records"):
        click.echo(f"'{row['first']}' or '{row['second']}': people disagree on {row['images']:,} images; "
                   f"agreement {_share(row['agreement_before'])} of {row['pairs_before']:,} pairs of answers"
                   + (f", since the ruling {_share(row['agreement_after'])} of {row['pairs_after']:,}"
                      if row["ruling"] else "; no ruling yet"))  # fmt: skip
        for path in row["paths"]:
            click.echo(f"  {path}")
    for row in questions.to_dict(orient="records"):
        click.echo(f"{row['answer']}: {row['path']} ({row['person']}) {row['words']}".rstrip())
    if not len(table) and not len(questions):
        click.echo(
            "Nobody disagrees about a class yet; `curate guide DIR --class NAME --rule TEXT` says what one means."
        )


def _share(value: float) -> str:
    return "unknown" if value != value else f"{value:.0%}"


@click.command()
@DIRECTORY
@click.option("--stop", is_flag=True, help="Stop the project's Label Studio.")
@AS_JSON
def label(directory: Path, stop: bool, as_json: bool) -> None:
    """Start the project's Label Studio and say where and how to sign in."""
    project = open_project(directory)
    server = project.label_studio()
    if stop:
        server.stop()
        elsewhere = os.environ.get("LABEL_STUDIO_URL", "").strip()
        if as_json:
            print_json({"stopped": True})
        else:
            click.echo("The project's own Label Studio is stopped"
                       + (f"; the one at {elsewhere} is left alone." if elsewhere else "."))  # fmt: skip
        return
    access = project.labeling_access()
    if as_json:
        print_json(access)
        return
    local = f" (on this machine {access['local_url']})" if "local_url" in access else ""
    click.echo(f"Label Studio: {access['url']}{local}")
    if access.get("email"):
        click.echo(f"Sign in as {access['email']}; the password is in {access['password_file']}")
    for stream, address in access["streams"].items():
        click.echo(f"  {stream}: {address}")
    for words in how_far(access["people"]):
        click.echo(words)
    if "by_files" in access:
        click.echo(f"Answers come in files: {access['by_files']}")
    elif not access["streams"] and not access["people"]:
        click.echo("Nothing is waiting to be labeled; `curate run` sends the next batch.")


@click.command()
@DIRECTORY
@click.option("--add", metavar="NAME", help="Make this person (or pseudonym) an account in Label Studio.")
@click.option("--email", help="Email of --add, to sign in with; made from the name by default.")
@click.option("--quality", is_flag=True, help="How many answers, how quick, how reliable, and what stands out.")
@click.option("--queues", is_flag=True, help="Who has a queue of their own, how far they are, and where it is.")
@click.option("--erase", metavar="NAME", help="Erase this name; what the person said stays, under 'erased person N'.")
@AS_JSON
def people(
    directory: Path, add: str | None, email: str | None, quality: bool, queues: bool, erase: str | None, as_json: bool
) -> None:
    """Names of everybody who is in the ledger; add somebody, see how they label, or erase a name."""
    from curation import desk

    project = open_project(directory)
    ledger = project.ledger
    if add is not None:
        made = desk.add_labeler(project, add, email=email)
        if as_json:
            print_json(made)
            return
        click.echo(f"Send this to {made['name']}; the password is shown once and kept nowhere:")
        for word, value in (("address", made["url"]), ("email", made["email"]), ("password", made["password"])):
            click.echo(f"  {word:9} {value}")
        for stream, address in made["streams"].items():
            click.echo(f"  {stream:9} {address}")
        return
    if quality:
        table = desk.labelers(project)
        if as_json:
            print_json(json.loads(table.to_json(orient="records")))
        else:
            click.echo(table.to_string(index=False, float_format=lambda x: f"{x:.2f}", na_rep="-"))
        return
    if queues:
        rows = project.queues()
        if as_json:
            print_json(rows)
        else:
            click.echo(
                "\n".join(how_far(rows)) or "No batch waits in queues of their own; review.people names who gets one."
            )
        return
    if erase is not None:
        now = desk.erase_person(project, erase)
        named = ", curation.toml (review.people)" if erase in project.settings.review.people else ""
        click.echo(f"'{erase}' is now '{now}' in the ledger. Reports, FiftyOne, Label Studio{named} and backups made "
                   "before still hold the name; make them anew or delete them.", err=True)  # fmt: skip
    if as_json:
        print_json(ledger.people())
    else:
        click.echo("\n".join(ledger.people()) or "Nobody is in the ledger yet.")
        for words in how_far(project.queues()):
            click.echo(words)


def _tell_set_aside(reasons: list[str]) -> None:
    for reason in reasons[:10]:
        click.echo(f"Set aside: {reason}", err=True)
    if len(reasons) > 10:
        click.echo(f"Set aside: and {len(reasons) - 10:,} more", err=True)
