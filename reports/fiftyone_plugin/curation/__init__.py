"""The Curation panel of the FiftyOne App: what each iteration did, and one button a view to review.

It reads only what ``reports.fiftyone_store`` wrote into ``dataset.info``, and changes nothing. FiftyOne loads this
file inside its server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import fiftyone.operators as foo
import fiftyone.operators.types as types

NAME = "curation_panel"
_COLUMNS = {"number": "Iteration", "changed": "Changed", "issues": "Issues", "accuracy": "Accuracy"}
#: Without this a table is 650 px wide and pushes every line of a narrow panel out of sight.
_FITTING = {
    "padding": "16px",
    "gridTemplateColumns": "minmax(0, 1fr)",
    "& > *": {"minWidth": 0},
    "& table": {"minWidth": 0},
    "& th, & td": {"padding": "8px"},
}
_GAP = "&nbsp;\n\n"
_CHIPS = "On each picture: its label, the prediction, and the label's quality (0 worst, 100 best)."


class CurationPanel(foo.Panel):  # type: ignore[misc]  # FiftyOne has no types
    """Iterations as a table, what is weak in words, and buttons that open the last iteration's saved views."""

    @property
    def config(self) -> Any:
        return foo.PanelConfig(
            name=NAME, label="Curation", icon="fact_check", surfaces="grid", help_markdown=__doc__.split("\n")[0]
        )

    def on_load(self, ctx: Any) -> None:
        """Fill the table when the panel opens."""
        ctx.panel.set_data("iterations", table_rows(_recorded(ctx)))

    def on_change_dataset(self, ctx: Any) -> None:
        """Another dataset, another project."""
        self.on_load(ctx)

    def open_view(self, ctx: Any) -> None:
        """Show the saved view that the button stands for."""
        ctx.ops.set_view(name=ctx.params["view"])

    def show_all(self, ctx: Any) -> None:
        """Leave the saved view."""
        ctx.ops.clear_view()

    def render(self, ctx: Any) -> Any:
        recorded = _recorded(ctx)
        panel = types.Object()
        if not recorded:
            panel.md("No iteration is recorded here yet. `curate run` writes one.", name="empty")
            return types.Property(panel, view=_page())
        last = recorded[-1]
        panel.md(headline(last), name=f"headline_{last['key']}")
        self._views(panel, last)
        panel.md(f"{_GAP}**All iterations** (labels changed of those reviewed)", name="iterations_title")
        table = types.TableView()
        for key, label in _COLUMNS.items():
            table.add_column(key, label=label)
        panel.list("iterations", types.Object(), view=table)
        if last["slices"]:
            panel.md(slice_words(last), name=f"slices_{last['key']}")
        return types.Property(panel, view=_page())

    def _views(self, panel: Any, last: Mapping[str, Any]) -> None:
        panel.md(f"{_GAP}**What to look at, in this order**\n\n{_CHIPS}", name="views_title")
        for position, view in enumerate(last.get("views", [])):
            panel.btn(
                f"view_{position}",
                label=f"{button_words(view['words'])} ({view['count']})",
                on_click=self.open_view,
                params={"view": view["name"]},
                variant="contained" if position == 0 else "outlined",
            )
        panel.btn("show_all", label="All images", on_click=self.show_all, variant="outlined")


def _page() -> Any:
    return types.GridView(
        orientation="vertical", gap=1, align_x="left", componentsProps={"container": {"sx": _FITTING}}
    )


def _recorded(ctx: Any) -> list[dict[str, Any]]:
    ctx.dataset.reload()  # another process may have recorded an iteration since
    return complete_iterations(ctx.dataset.info)


def complete_iterations(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Iterations that were written to the end, oldest first; one that was cut off is not shown."""
    entries = [entry for entry in info.get("iterations", {}).values() if entry.get("complete")]
    return sorted(entries, key=lambda entry: entry["number"])


def table_rows(recorded: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The table's rows; FiftyOne's tables take text only."""
    return [
        {
            "number": str(entry["number"]),
            "changed": f"{entry['changed']} of {entry['reviewed']}",
            "issues": str(entry["issues"].get("label", 0)),
            "accuracy": entry["accuracy"],
        }
        for entry in recorded
    ]


def headline(entry: Mapping[str, Any]) -> str:
    """The last iteration in a few words of Markdown."""
    said = [f"**Iteration {entry['number']} of {plain(entry['project'])}**"]
    said.append(f"Holdout accuracy {entry['accuracy']}. {plain(entry['gain'])}".strip())
    said += [f"- {plain(advice)}" for advice in entry["advice"][:3]]
    return "\n\n".join(said[:2]) + ("\n\n" + "\n".join(said[2:]) if said[2:] else "")


def slice_words(entry: Mapping[str, Any]) -> str:
    """The weak slices as a Markdown list."""
    lines = [
        f"- **{plain(weak['name'])}**: {weak['error']} wrong ({weak['interval']}) of {weak['size']}, "
        f"elsewhere {weak['rest']}; {weak['status']}" + (f"; {plain(weak['recipe'])}" if weak["recipe"] else "")
        for weak in entry["slices"]
    ]
    return f"{_GAP}**Weak slices**\n\n" + "\n".join(lines)


def button_words(words: str) -> str:
    """A view's description without its iteration: the panel speaks of the last one only."""
    short = re.sub(r"^Iteration \d+: ", "", words)
    return short[:1].upper() + short[1:60] + ("…" if len(short) > 60 else "")


def plain(text: str) -> str:
    """Somebody's words as plain text in Markdown: no markup, no link, no line break of theirs."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", re.sub(r"\s+", " ", text))


def register(plugin: Any) -> None:
    """FiftyOne calls this when it loads the plugin."""
    plugin.register(CurationPanel)
