"""The labeling screen and its class guide, as Label Studio's XML (pure).

One screen without scrolling: the image large at the left, the answers with their keys in the middle, the guide at the
right. Nothing is selected beforehand, so an answer is always a person's own. What is stored is the class's id, so a
renamed class keeps its answers.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from xml.etree import ElementTree as Xml

from curation.errors import ConfigError
from curation.records import AMBIGUOUS, BAD_IMAGE, Classes
from labeling.tasks import CONTROL, Stream

AMBIGUOUS_KEY, BAD_IMAGE_KEY = "a", "x"
#: Digits, then the letters that neither the editor nor the two special answers use.
CLASS_KEYS = "1234567890" + "cdfgijlnqstyz"
#: With more classes than this, answers stand in two columns under a search field.
MANY = 12


@dataclass(frozen=True)
class Texts:
    """The words on the screen; ``texts.toml`` beside this file holds them."""

    title_shown: str
    title_blind: str
    given: str
    suggestion: str
    reason: str
    question_shown: str
    question_blind: str
    find: str
    missing: str
    ambiguous: str
    ambiguous_guide: str
    bad_image: str
    bad_image_guide: str
    guide: str
    how_shown: str
    how_blind: str


def read_texts() -> Texts:
    """The words as shipped; raises ConfigError where one is missing or unknown."""
    words = tomllib.loads((files("labeling") / "texts.toml").read_text(encoding="utf-8"))
    known = {f.name for f in fields(Texts)}
    if set(words) != known:
        raise ConfigError(f"labeling/texts.toml must hold exactly {sorted(known)}; differs in {set(words) ^ known}")
    return Texts(**words)


def class_keys(count: int) -> list[str | None]:
    """The key of each class; ``None`` for those beyond the keys that there are.

    >>> class_keys(3), class_keys(200)[-1]
    (['1', '2', '3'], None)
    """
    return [CLASS_KEYS[i] if i < len(CLASS_KEYS) else None for i in range(count)]


def labeling_config(classes: Classes, *, mode: Stream, texts: Texts, guide: Mapping[str, str] | None = None) -> str:
    """The screen for these classes; ``guide`` says what a class means, by class id.

    In shown mode a task's ``given_label``, ``suggestion`` and ``reason`` are shown as text. Names are untrusted: they
    are escaped, and no ``$`` in them is taken for a field of the task.
    """
    view = Xml.Element("View", className="ct ct-wide" if len(classes) > MANY else "ct")
    Xml.SubElement(view, "Style").text = _STYLE
    image = Xml.SubElement(view, "View", className="ct-image")
    Xml.SubElement(image, "Image", _IMAGE)
    ask = Xml.SubElement(view, "View", className="ct-ask")
    if mode == "shown":
        _facts(ask, texts)
    _words(ask, texts.question_shown if mode == "shown" else texts.question_blind, "ct-question")
    _choices(ask, classes, texts)
    _guide(Xml.SubElement(view, "View", className="ct-guide"), classes, texts, mode, guide or {})
    return Xml.tostring(view, encoding="unicode")


def _facts(parent: Xml.Element, texts: Texts) -> None:
    facts = Xml.SubElement(parent, "View", className="ct-facts")
    for title, value in ((texts.given, "$given_label"), (texts.suggestion, "$suggestion"), (texts.reason, "$reason")):
        fact = Xml.SubElement(facts, "View", className="ct-fact")
        _words(fact, title, "ct-title")
        _show(fact, value, "ct-value")


def _choices(parent: Xml.Element, classes: Classes, texts: Texts) -> None:
    box = Xml.SubElement(parent, "View", className="ct-answers ct-many" if len(classes) > MANY else "ct-answers")
    if len(classes) > MANY:
        Xml.SubElement(
            box, "Filter", name="find", toName=CONTROL, placeholder=texts.find, minlength="0", hotkey="shift+f"
        )
    choices = Xml.SubElement(
        box, "Choices",
        name=CONTROL, toName="image", choice="single-radio", required="true", requiredMessage=texts.missing,
    )  # fmt: skip
    special = [(texts.ambiguous, AMBIGUOUS, AMBIGUOUS_KEY), (texts.bad_image, BAD_IMAGE, BAD_IMAGE_KEY)]
    keys = class_keys(len(classes))
    answers = [(name, class_id, key) for (class_id, name), key in zip(classes, keys, strict=True)]
    # In a long list the two special answers would be out of sight at its end.
    for name, alias, hotkey in [*special, *answers] if len(classes) > MANY else [*answers, *special]:
        _choice(choices, name, alias, hotkey)


def _choice(parent: Xml.Element, name: str, alias: str, key: str | None) -> None:
    Xml.SubElement(parent, "Choice", {"value": name, "alias": alias} | ({"hotkey": key} if key else {}))


def _guide(parent: Xml.Element, classes: Classes, texts: Texts, mode: Stream, guide: Mapping[str, str]) -> None:
    _words(parent, texts.how_shown if mode == "shown" else texts.how_blind, "ct-how")
    told = [(name, guide[class_id]) for class_id, name in classes if guide.get(class_id)]
    entries: Sequence[tuple[str, str]] = [
        *told, (texts.ambiguous, texts.ambiguous_guide), (texts.bad_image, texts.bad_image_guide)
    ]  # fmt: skip
    _words(parent, texts.guide, "ct-question")
    for name, meaning in entries:
        entry = Xml.SubElement(parent, "View", className="ct-entry")
        _words(entry, name, "ct-title")
        _words(entry, meaning, "ct-value")


def _words(parent: Xml.Element, words: str, kind: str) -> None:
    """Fixed words: an invisible mark after each ``$`` keeps Label Studio from putting a field in its place."""
    _show(parent, words.replace("$", "$\u2060"), kind)


def _show(parent: Xml.Element, value: str, kind: str) -> None:
    Xml.SubElement(Xml.SubElement(parent, "View", className=kind), "Header", value=value, size="5")


_IMAGE = {
    "name": "image", "value": "$image", "smoothing": "false", "width": "100%", "zoom": "true",
    "zoomControl": "false", "brightnessControl": "false", "contrastControl": "false", "rotateControl": "false",
    "gammaControl": "false",
}  # fmt: skip

#: Label Studio's own panels for drawing regions are of no use here; what they leave free goes to image and guide.
_STYLE = """
.lsf-sidepanels__wrapper, .lsf-toolbar, .lsf-history-buttons, .lsf-model-actions { display: none !important }
.lsf-sidepanels { padding: 0 !important }
.lsf-sidepanels__content { margin: 0 !important; padding: 0 !important; width: 100% !important;
  max-width: none !important }
.lsf-main-view__annotation { padding: 0 !important }
.ct { display: grid; grid-template-columns: minmax(0, 1fr) 310px 270px; gap: 20px; padding: 12px 16px;
  height: calc(100vh - 102px); box-sizing: border-box; overflow: hidden }
.ct h4, .ct .lsf-choice { font-size: 14px !important; line-height: 19px !important; font-weight: 400 !important;
  margin: 0 !important; padding: 0 !important; overflow-wrap: anywhere }
.ct-image, .ct-ask, .ct-guide { min-height: 0; min-width: 0 }
.ct-ask { display: flex; flex-direction: column }
.ct-guide { overflow-y: auto; border-left: 1px solid rgba(128, 128, 128, .35); padding-left: 16px }
.ct-facts { border: 1px solid rgba(128, 128, 128, .35); border-radius: 6px; padding: 8px 12px; margin-bottom: 12px;
  max-height: 40%; overflow-y: auto }
.ct-fact + .ct-fact, .ct-entry { margin-top: 6px }
.ct-title h4 { font-weight: 600 !important }
.ct-facts .ct-title h4 { font-weight: 400 !important; font-size: 12px !important; opacity: .7 }
.ct-facts .ct-value h4 { font-weight: 600 !important }
.ct-fact:nth-child(3) .ct-value h4 { font-weight: 400 !important }
.ct-question { margin: 0 0 4px }
.ct-question h4 { font-weight: 600 !important; font-size: 16px !important }
.ct-how { margin-bottom: 14px }
.ct-answers { flex: 1; min-height: 0; overflow-y: auto }
.ct .lsf-hint { font-size: 12px; top: 0; margin-left: 6px; opacity: .75 }
.ct .lsf-choices { margin: 0 !important }
.ct .lsf-choice__item { margin: 0 !important; padding: 3px 0 !important }
.ct-wide { grid-template-columns: minmax(0, 1fr) 410px 230px }
.ct-many { display: flex; flex-direction: column; gap: 6px; overflow: hidden }
.ct-many .lsf-choices { display: grid !important; grid-template-columns: 1fr 1fr; align-content: start; gap: 0 10px;
  flex: 1; min-height: 0; overflow-y: auto }
.ct-many .lsf-choice { min-width: 0 }
"""
