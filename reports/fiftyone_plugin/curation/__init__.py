"""The Curation panel of the FiftyOne App: what each iteration did, what to look at, and verdicts on what is selected.

FiftyOne loads this file inside its server. What was recorded is read from ``dataset.info``; every action goes through
``Project`` into the ledger, in the name of the reviewer whose server this is, and from there into the dataset.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types

from curation.errors import CurationError
from curation.project import Project
from curation.records import AMBIGUOUS, BAD_IMAGE
from reports import panel as said
from reports.fiftyone_plan import REVIEWED
from reports.fiftyone_store import write_live
from reports.page import picture_address

NAME = "curation_panel"
_PLUGIN = "@curation-toolkit/curation"
#: Without this a table is 650 px wide and pushes every line of a narrow panel out of sight.
_FITTING = {
    "padding": "16px",
    "& > div": {"gridTemplateColumns": "minmax(0, 1fr)"},
    "& > *": {"minWidth": 0},
    "& p": {"margin": "4px 0"},
    "& ul": {"margin": "4px 0", "paddingLeft": "20px"},
    "& table": {"minWidth": 0},
    "& th, & td": {"padding": "8px"},
    "& img": {"maxWidth": "100%"},
}
#: Buttons one after the other, in as many lines as it takes.
_ROW = {
    "container": {
        "sx": {"& > div": {"display": "flex", "flexWrap": "wrap", "rowGap": "8px"}, "& > div > div": {"width": "auto"}}
    }
}
_EXAMPLES = 6


# --- What acts ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _opened(root: str) -> Project:
    return Project(root)


def _project() -> Project | None:
    """The project that this server was started for; ``None`` in an App of somebody else's."""
    root = os.environ.get("CURATION_PROJECT", "")
    return _opened(root) if root else None


def _reviewer() -> str:
    return os.environ.get("CURATION_REVIEWER") or "reviewer"


def _selected(ctx: Any) -> list[str]:
    """The sample ids of what is selected, in the order of the dataset."""
    return list(ctx.dataset.select(list(ctx.selected)).values("uid")) if ctx.selected else []


def _show(ctx: Any, project: Project, sample_ids: Sequence[str]) -> None:
    """Bring what was decided into the dataset and onto the screen."""
    write_live(ctx.dataset._sample_collection, project.live(sample_ids))  # no public way to write fields in bulk
    ctx.ops.clear_selected_samples()
    ctx.ops.reload_dataset()  # reload_samples leaves those in the grid that the view no longer holds


def _act(ctx: Any, act: Any) -> list[str]:
    """Do something to what is selected: ``act(project, sample_ids)`` returns words; faults are told, not raised."""
    project, sample_ids = _project(), _selected(ctx)
    if project is None:
        ctx.ops.notify("Start the App with `curate review` to judge images.", variant="error")
        return []
    if not sample_ids:
        ctx.ops.notify("Nothing is selected: tick images at their upper left corner.", variant="warning")
        return []
    with _faults_told(ctx):
        words = act(project, sample_ids)
        _show(ctx, project, sample_ids)
        ctx.ops.notify(words, variant="success")
        return sample_ids
    return []


@contextmanager
def _faults_told(ctx: Any) -> Iterator[None]:
    try:
        yield
    except CurationError as error:
        ctx.ops.notify(str(error), variant="error")


def _judge(answer: str, note: str = "") -> Any:
    return lambda project, ids: project.judge(ids, answer or None, person=_reviewer(), note=note).words()


def _take_back(project: Project, sample_ids: Sequence[str]) -> str:
    return project.take_back(sample_ids, person=_reviewer()).words("decision taken back", "decisions taken back")


def _send(project: Project, sample_ids: Sequence[str]) -> str:
    told = project.send_to_labelers(sample_ids, person=_reviewer())
    where = "in Label Studio now" if told["sent"] else "to go out with the next batch"
    reasons = list(told["left_alone"].values())
    left = f" {len(reasons)} left alone: {reasons[0]}." if reasons else ""
    return f"{told['queued']} for labelers, {where}.{left}"


class NoteCause(foo.Operator):  # type: ignore[misc]  # FiftyOne has no types
    """Note why the model errs on the selected images."""

    @property
    def config(self) -> Any:
        return foo.OperatorConfig(name="note_cause", label="Curation: note why the model errs", dynamic=False)

    def resolve_input(self, ctx: Any) -> Any:
        """A cause from the list, or a new one, and a note."""
        inputs, project = types.Object(), _project()
        causes = types.AutocompleteView()
        for cause in project.causes_offered() if project else ():
            causes.add_choice(cause, label=cause)
        inputs.str("cause", label="Cause", description="Choose one, or write a new one", view=causes, required=True)
        inputs.str("note", label="Note", description="What to know besides", default="")
        return types.Property(inputs, view=types.View(label=f"Why does the model err on {len(ctx.selected)} image(s)?"))

    def execute(self, ctx: Any) -> dict[str, Any]:
        """Record the remark."""
        cause, note = ctx.params.get("cause") or "", ctx.params.get("note") or ""

        def remark(project: Project, ids: Sequence[str]) -> str:
            return f"Noted on {project.remark(ids, cause, person=_reviewer(), note=note)} image(s): {cause}"

        _act(ctx, remark)
        return {}


class JudgeSelected(foo.Operator):  # type: ignore[misc]  # FiftyOne has no types
    """Give a verdict with a note on the selected images."""

    @property
    def config(self) -> Any:
        return foo.OperatorConfig(name="judge_selected", label="Curation: verdict on the selected images")

    def resolve_input(self, ctx: Any) -> Any:
        """Any class or special answer, and a note."""
        inputs, project = types.Object(), _project()
        answers = types.AutocompleteView()
        for name in (*(project.classes.names if project else ()), AMBIGUOUS, BAD_IMAGE):
            answers.add_choice(name, label=name)
        inputs.str("answer", label="Verdict", view=answers, required=True)
        inputs.str("note", label="Note", default="")
        return types.Property(inputs, view=types.View(label=f"Verdict on {len(ctx.selected)} image(s)"))

    def execute(self, ctx: Any) -> dict[str, Any]:
        """Record the verdicts."""
        _act(ctx, _judge(ctx.params.get("answer") or "", ctx.params.get("note") or ""))
        return {}


# --- What is shown -----------------------------------------------------------------------------------------------


class CurationPanel(foo.Panel):  # type: ignore[misc]  # FiftyOne has no types
    """What the last iteration did, views to review in order, and verdicts on the selected images."""

    @property
    def config(self) -> Any:
        return foo.PanelConfig(
            name=NAME, label="Curation", icon="fact_check", surfaces="grid", help_markdown=__doc__.split("\n")[0]
        )

    def on_load(self, ctx: Any) -> None:
        """Fill table and plot when the panel opens."""
        recorded = _recorded(ctx)
        ctx.panel.set_data("iterations", said.table_rows(recorded))
        if drawn := said.curve(recorded):
            ctx.panel.set_data("curve", drawn[0])

    def on_change_dataset(self, ctx: Any) -> None:
        """Another dataset, another project."""
        self.on_load(ctx)

    def on_change_selected(self, ctx: Any) -> None:
        """The panel says how many are selected; drawing it anew is enough."""

    def open_view(self, ctx: Any) -> None:
        """Show the saved view that the button stands for."""
        ctx.ops.clear_selected_samples()
        ctx.ops.set_view(name=ctx.params["view"])

    def show_all(self, ctx: Any) -> None:
        """Leave the saved view."""
        ctx.ops.clear_view()

    def judge(self, ctx: Any) -> None:
        """Give the verdict that the button stands for on what is selected; '' says that the labels are right."""
        _act(ctx, _judge(ctx.params["answer"]))

    def agree(self, ctx: Any) -> None:
        """Give each selected image the class that the last iteration suggests for it."""
        _act(ctx, functools.partial(_agree, ctx))

    def undo(self, ctx: Any) -> None:
        """Take back what was last decided of what is selected."""
        _act(ctx, _take_back)

    def undo_last(self, ctx: Any) -> None:
        """Take back this reviewer's last verdicts, those that were given at once."""
        with _faults_told(ctx):
            project = _project()
            if project is not None and (last := project.last_judged(_reviewer())):
                words = _take_back(project, last)
                _show(ctx, project, last)
                ctx.ops.notify(words, variant="success")

    def send(self, ctx: Any) -> None:
        """Ask labelers about what is selected."""
        _act(ctx, _send)

    def render(self, ctx: Any) -> Any:
        """Draw the panel from top to bottom in the order of the work."""
        recorded = _recorded(ctx)
        panel = types.Object()
        if not recorded:
            panel.md("No iteration is recorded here yet. `curate run` writes one.", name="empty")
            return types.Property(panel, view=_page())
        last, project = recorded[-1], _project()
        if project and ctx.selected:  # what is to be decided now comes first
            self._verdicts(ctx, panel, project)
        panel.md(said.headline(last), name=f"headline_{last['key']}")
        self._views(ctx, panel, last)
        if project and not ctx.selected:
            self._verdicts(ctx, panel, project)
        self._iterations(panel, recorded)
        self._slices(ctx, panel, last)
        self._causes(panel, last)
        return types.Property(panel, view=_page())

    def _views(self, ctx: Any, panel: Any, last: Mapping[str, Any]) -> None:
        panel.md(f"{said.title('What to look at, in this order')}\n\n{said.CHIPS}", name="views_title")
        counts = _counts(ctx.dataset, [view["name"] for view in last.get("views", [])])
        first = said.first_to_look_at([counts.get(view["name"], 0) for view in last.get("views", [])])
        for position, view in enumerate(last.get("views", [])):
            panel.btn(
                f"view_{position}",
                label=f"{said.button_words(view['words'])} ({counts.get(view['name'], 0)})",
                on_click=self.open_view,
                params={"view": view["name"]},
                variant="contained" if position == first else "outlined",
            )
        if counts.get(REVIEWED):
            panel.btn(
                REVIEWED, label=f"What reviewers judged, last first ({counts[REVIEWED]})", on_click=self.open_view,
                params={"view": REVIEWED}, variant="outlined",
            )  # fmt: skip
        panel.btn("show_all", label="All images", on_click=self.show_all, variant="outlined")

    def _verdicts(self, ctx: Any, panel: Any, project: Project) -> None:
        count = len(ctx.selected or [])
        panel.md(said.selected_words(count, _reviewer()), name=f"selected_{count}")
        names, idle = project.classes.names, not count
        answers: list[tuple[str, str]] = [("Label is right", "")]
        answers += [(name, name) for name in names] if len(names) <= said.MOST_BUTTONS else []
        answers += [("Ambiguous", AMBIGUOUS), ("Bad image: leave out", BAD_IMAGE)]
        row = panel.h_stack("answers", gap=1, componentsProps=_ROW)
        row.btn("agree", label="Suggestion is right", on_click=self.agree, variant="contained", disabled=idle)
        for position, (label, answer) in enumerate(answers):
            row.btn(
                f"answer_{position}", label=label, on_click=self.judge, params={"answer": answer}, variant="outlined",
                disabled=idle,
            )  # fmt: skip
        more = panel.h_stack("more", gap=1, componentsProps=_ROW)
        more.btn(
            "other", label="Verdict with a note…", on_click=f"{_PLUGIN}/judge_selected", prompt=True, disabled=idle
        )
        more.btn(
            "cause",
            label="Why it errs…",
            on_click=f"{_PLUGIN}/note_cause",
            prompt=True,
            variant="outlined",
            disabled=idle,
        )
        more.btn("send", label="Ask labelers", on_click=self.send, variant="outlined", disabled=idle)
        more.btn("undo", label="Take back", on_click=self.undo, variant="outlined", disabled=idle)
        if last := project.last_judged(_reviewer()):
            more.btn("undo_last", label=f"Take back the last {len(last)}", on_click=self.undo_last, variant="outlined")

    def _iterations(self, panel: Any, recorded: Sequence[Mapping[str, Any]]) -> None:
        panel.md(f"{said.title('All iterations')} (labels changed of those reviewed)", name="iterations_title")
        table = types.TableView()
        for key, label in said.COLUMNS.items():
            table.add_column(key, label=label)
        panel.list("iterations", types.Object(), view=table)
        if drawn := said.curve(recorded):
            panel.plot("curve", layout=drawn[1], config={"displayModeBar": False})

    def _slices(self, ctx: Any, panel: Any, last: Mapping[str, Any]) -> None:
        if last["slices"]:
            panel.md(said.title("Weak slices"), name="slices_title")
        for position, weak in enumerate(last["slices"]):
            panel.md(said.slice_words(weak), name=f"slice_{position}")
            typical = ctx.dataset.match({f"slices_{last['key']}": weak["name"]}).sort_by(f"quality_{last['key']}")
            if sheet := _sheet(tuple(typical.limit(_EXAMPLES).values("filepath"))):
                _picture(panel, f"typical_{position}", sheet, f"Typical images of {weak['name']}")
            if weak.get("preview") and (recipe := _recipe_sheet(last["number"])):
                _picture(panel, f"recipe_{position}", recipe, f"Before and after the recipe: {weak['recipe']}")

    def _causes(self, panel: Any, last: Mapping[str, Any]) -> None:
        if words := said.audit_words(last):
            panel.md(words, name="audit")
        project = _project()
        counts: dict[int, dict[str, int]] = {}
        for row in project.causes().to_dict(orient="records") if project else ():
            counts.setdefault(row["iteration"], {})[row["cause"]] = row["images"]
        if words := said.cause_words(counts):
            panel.md(words, name="causes")


def _agree(ctx: Any, project: Project, sample_ids: Sequence[str]) -> str:
    key = _recorded(ctx)[-1]["key"]
    view = ctx.dataset.select_by("uid", list(sample_ids))
    suggested = {uid: name for uid, name in zip(*view.values(["uid", f"suggested_{key}"]), strict=True) if name}
    without = len(sample_ids) - len(suggested)
    words = project.judge(suggested, person=_reviewer()).words() if suggested else ""
    return words + (f" {without} without a suggestion left alone." if without else "")


def _picture(panel: Any, name: str, address: str, words: str) -> None:
    panel.define_property(name, types.String(), default=address, view=types.ImageView(alt=words, height="auto"))


@functools.lru_cache(maxsize=64)
def _sheet(files: tuple[str, ...]) -> str:
    """Drawn once: the panel is drawn anew at every click, and photographs take a while to open."""
    project = _project()
    return said.strip(files, bits=project.settings.bits if project else 16)


def _recipe_sheet(number: int) -> str:
    project = _project()
    file = project.paths.iteration(number) / "recipe.png" if project else Path()
    return picture_address(file, 720) if file.is_file() else ""


def _counts(dataset: Any, names: Sequence[str]) -> Mapping[str, int]:
    """What the saved views hold now; counted anew only when something has changed, whoever changed it."""
    newest = dataset._sample_collection.find_one({}, {"last_modified_at": 1}, sort=[("last_modified_at", -1)])
    return _counted(dataset.name, (*names, REVIEWED), str((newest or {}).get("last_modified_at")))


@functools.lru_cache(maxsize=4)
def _counted(dataset_name: str, names: tuple[str, ...], _stamp: str) -> Mapping[str, int]:
    import fiftyone as fo

    dataset = fo.load_dataset(dataset_name)
    saved = set(dataset.list_saved_views())
    return {name: dataset.load_saved_view(name).count() for name in names if name in saved}


def _page() -> Any:
    return types.GridView(
        orientation="vertical", gap=1, align_x="left", componentsProps={"container": {"sx": _FITTING}}
    )


def _recorded(ctx: Any) -> list[dict[str, Any]]:
    ctx.dataset.reload()  # another process may have recorded an iteration since
    return said.complete_iterations(ctx.dataset.info)


def register(plugin: Any) -> None:
    """FiftyOne calls this when it loads the plugin."""
    plugin.register(CurationPanel)
    plugin.register(NoteCause)
    plugin.register(JudgeSelected)
