"""The labeling screen and its class guide, as Label Studio's XML (pure).

One screen without scrolling: the image large at the left, the answers with their keys in the middle, the guide with its
example images at the right. Nothing is selected beforehand, so an answer is always a person's own. What is stored is
the class's id, so a renamed class keeps its answers. Names are untrusted: they are escaped for XML, and once more where
they stand in HTML, and no ``$`` in them is taken for a field of the task.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree as Xml

from curation.errors import ConfigError
from curation.records import AMBIGUOUS, BAD_IMAGE, OTHER, Classes
from labeling.tasks import CONTROL, OTHER_CONTROL, Stream

AMBIGUOUS_KEY, BAD_IMAGE_KEY, OTHER_KEY = "a", "x", "z"
_LETTERS = "cdfgijlnqsty"
#: Digits, then the letters that neither the editor nor the three special answers use, then most of those with shift.
CLASS_KEYS = (*"1234567890", *_LETTERS, *(f"shift+{letter}" for letter in _LETTERS if letter != "f"))
#: With more classes than this, answers stand in two columns under a search field; with more still, in three.
MANY, VERY_MANY = 12, 24
#: The guide has no example images with more classes than this: they would be too small, and too many to load.
MOST_WITH_EXAMPLES = 60


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
    nearest: str
    none: str
    no_label: str
    no_reason: str
    other: str
    other_what: str


def read_texts(file: Path | None = None) -> Texts:
    """The words as shipped; those in ``file`` in their place, for another language or other wishes.

    Raises ConfigError that names the file and the word for what is unknown, no text, or can't be filled in.
    """
    shipped = tomllib.loads((files("labeling") / "texts.toml").read_text(encoding="utf-8"))
    known = {f.name for f in fields(Texts)}
    if set(shipped) != known:
        raise ConfigError(f"labeling/texts.toml must hold exactly {sorted(known)}; differs in {set(shipped) ^ known}")
    return Texts(**shipped | (_own_words(file, shipped) if file else {}))


def _own_words(file: Path, shipped: Mapping[str, str]) -> dict[str, str]:
    try:
        words = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} can't be read as TOML in UTF-8 ({error}); see labeling/texts.toml") from None
    for name, text in words.items():
        if name not in shipped:
            raise ConfigError(f"{file}: '{name}' is no text of the screen; there are {', '.join(sorted(shipped))}")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"{file}: '{name}' must be a text, got {text!r}")
        wanted = set(re.findall(r"{\w+}", shipped[name]))
        if set(re.findall(r"{[^}]*}?", text)) != wanted or "}" in re.sub(r"{\w+}", "", text):
            raise ConfigError(f"{file}: '{name}' must hold {', '.join(wanted) or 'no braces'}, got '{text}'")
    return words


def class_keys(count: int) -> list[str | None]:
    """The key of each class; ``None`` for those beyond the keys that there are.

    >>> class_keys(3), class_keys(200)[-1]
    (['1', '2', '3'], None)
    """
    return [CLASS_KEYS[i] if i < len(CLASS_KEYS) else None for i in range(count)]


def labeling_config(
    classes: Classes,
    *,
    mode: Stream,
    texts: Texts,
    guide: Mapping[str, str] | None = None,
    examples: Mapping[str, Sequence[str]] | None = None,
    near: bool = True,
    send: str = "Ctrl+Enter",
) -> str:
    """The screen for these classes; ``guide`` says what a class means, ``examples`` are image addresses, by class id.

    In shown mode a task's ``given_label``, ``suggestion``, ``reason`` and, unless ``near`` is false, ``evidence``
    (HTML, of ``evidence``) are shown. Label Studio takes no uploads of images where tasks show two fields with tags of
    their own, so a screen for uploaded images has to do without. ``send`` names the key that sends an answer.
    """
    kind = "ct" + (" ct-wide" if len(classes) > MANY else "") + (" ct-wider" if len(classes) > VERY_MANY else "")
    view = Xml.Element("View", className=kind)
    Xml.SubElement(view, "Style").text = _STYLE
    image = Xml.SubElement(view, "View", className="ct-image")
    Xml.SubElement(image, "Image", _IMAGE)
    ask = Xml.SubElement(view, "View", className="ct-ask")
    if mode == "shown":
        _facts(ask, texts, near)
    _words(ask, texts.question_shown if mode == "shown" else texts.question_blind, "ct-question")
    _choices(ask, classes, texts)
    aside = Xml.SubElement(view, "View", className="ct-guide")
    _words(aside, (texts.how_shown if mode == "shown" else texts.how_blind).format(send=send), "ct-how")
    _guide(aside, classes, texts, guide or {}, examples or {})
    return Xml.tostring(view, encoding="unicode")


def _facts(parent: Xml.Element, texts: Texts, near: bool) -> None:
    facts = Xml.SubElement(parent, "View", className="ct-facts")
    for title, value in ((texts.given, "$given_label"), (texts.suggestion, "$suggestion"), (texts.reason, "$reason")):
        fact = Xml.SubElement(facts, "View", className="ct-fact")
        _words(fact, title, "ct-title")
        _show(fact, value, "ct-value")
    if near:
        fact = Xml.SubElement(facts, "View", className="ct-fact")
        Xml.SubElement(fact, "HyperText", name="evidence", value="$evidence", inline="true")


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
    # By its alias: Label Studio takes a value apart at commas.
    only_then = Xml.SubElement(
        parent, "View", className="ct-other",
        visibleWhen="choice-selected", whenTagName=CONTROL, whenChoiceValue=OTHER,
    )  # fmt: skip
    Xml.SubElement(
        only_then, "TextArea", name=OTHER_CONTROL, toName="image", placeholder=texts.other_what, rows="1",
        maxSubmissions="1", editable="true",
    )  # fmt: skip
    special = [
        (texts.ambiguous, AMBIGUOUS, AMBIGUOUS_KEY),
        (texts.bad_image, BAD_IMAGE, BAD_IMAGE_KEY),
        (texts.other, OTHER, OTHER_KEY),
    ]
    keys = class_keys(len(classes))
    answers = [(name, class_id, key) for (class_id, name), key in zip(classes, keys, strict=True)]
    # In a long list the special answers would be out of sight at its end.
    for name, alias, hotkey in [*special, *answers] if len(classes) > MANY else [*answers, *special]:
        _choice(choices, name, alias, hotkey)


def _choice(parent: Xml.Element, name: str, alias: str, key: str | None) -> None:
    Xml.SubElement(parent, "Choice", {"value": _no_fields(name), "alias": alias} | ({"hotkey": key} if key else {}))


def _guide(
    parent: Xml.Element,
    classes: Classes,
    texts: Texts,
    guide: Mapping[str, str],
    examples: Mapping[str, Sequence[str]],
) -> None:
    _words(parent, texts.guide, "ct-question")
    seen = examples if len(classes) <= MOST_WITH_EXAMPLES else {}
    told = [(n, guide.get(c, ""), seen.get(c, ())) for c, n in classes if guide.get(c) or seen.get(c)]
    special = [(texts.ambiguous, texts.ambiguous_guide, ()), (texts.bad_image, texts.bad_image_guide, ())]
    entry = _small_entry if VERY_MANY < len(classes) <= MOST_WITH_EXAMPLES else _entry
    page = "".join(entry(name, meaning, pictures) for name, meaning, pictures in [*told, *special])
    # The name changes with the contents: Label Studio refuses to change a text that has a name.
    Xml.SubElement(parent, "HyperText", name="guide", value=_no_fields(page), inline="true")


def _entry(name: str, meaning: str, pictures: Sequence[str]) -> str:
    """A class in the guide, as HTML: its pictures, its name, what it means."""
    shown = "".join(_picture(address, "ct-example") for address in pictures)
    return f'<div class="ct-entry"><span>{shown}</span><p><b>{escape(name)}</b> {escape(meaning)}</p></div>'


def _small_entry(name: str, meaning: str, pictures: Sequence[str]) -> str:
    """A class in the guide where there are many: its pictures and its name; what it means shows under the pointer."""
    shown = "".join(_picture(address, "ct-example") for address in pictures)
    told = escape(f"{name}: {meaning}" if meaning else name)
    return f'<div class="ct-entry ct-small" title="{told}"><span>{shown}</span><b>{escape(name)}</b></div>'


def evidence(near: Sequence[tuple[str, Sequence[str]]], texts: Texts) -> str:
    """What a shown task's ``evidence`` holds: for each class name the addresses of the nearest images, as HTML."""
    groups = [
        f'<div class="ct-near"><p>{escape(texts.nearest.format(name=name))}</p>'
        + "".join(_picture(address, "ct-neighbour") for address in addresses)
        + "</div>"
        for name, addresses in near
        if addresses
    ]
    return f'<div class="ct-evidence">{"".join(groups)}</div>'


def _picture(address: str, kind: str) -> str:
    return f'<img class="{kind}" src="{escape(address)}" alt="">'


def _no_fields(words: str) -> str:
    """An invisible mark after each ``$`` keeps Label Studio from putting a field in its place."""
    return words.replace("$", "$\u2060")


def _words(parent: Xml.Element, words: str, kind: str) -> None:
    _show(parent, _no_fields(words), kind)


def _show(parent: Xml.Element, value: str, kind: str) -> None:
    Xml.SubElement(Xml.SubElement(parent, "View", className=kind), "Header", value=value, size="5")


_IMAGE = {
    "name": "image", "value": "$image", "smoothing": "false", "width": "100%", "zoom": "true",
    "zoomControl": "false", "brightnessControl": "false", "contrastControl": "false", "rotateControl": "false",
    "gammaControl": "false",
}  # fmt: skip

#: Label Studio's own panels for drawing regions are of no use here; what they leave free goes to image and guide. Its
#: toolbar makes the image's place narrower after the image was fitted into it, and so would cut off its edges. Where
#: three columns would leave too little for the image, the guide goes below the answers, then all below the image.
_STYLE = """
.lsf-sidepanels__wrapper, .lsf-toolbar, .lsf-history-buttons, .lsf-model-actions { display: none !important }
.lsf-sidepanels { padding: 0 !important }
.lsf-sidepanels__content { margin: 0 !important; padding: 0 !important; width: 100% !important;
  max-width: none !important }
.lsf-main-view__annotation { padding: 0 !important }
.ct { display: grid; grid-template-columns: minmax(0, 1fr) 310px 290px; gap: 20px; padding: 12px 16px;
  height: calc(100vh - 102px); box-sizing: border-box; overflow: hidden }
.ct h4, .ct .lsf-choice { font-size: 14px !important; line-height: 19px !important; font-weight: 400 !important;
  margin: 0 !important; padding: 0 !important; overflow-wrap: anywhere }
.ct-image, .ct-ask, .ct-guide { min-height: 0; min-width: 0 }
.ct-ask { display: flex; flex-direction: column }
.ct-guide { overflow-y: auto; border-left: 1px solid rgba(128, 128, 128, .35); padding-left: 16px }
.ct-facts { border: 1px solid rgba(128, 128, 128, .35); border-radius: 6px; padding: 6px 12px; margin-bottom: 8px;
  max-height: 46%; overflow-y: auto; display: flex; flex-wrap: wrap; gap: 4px 12px }
.ct-facts > * { flex: 1 1 100%; min-width: 0 }
.ct-facts > :nth-child(1), .ct-facts > :nth-child(2) { flex: 1 1 40% }
.ct-title h4 { font-weight: 600 !important }
.ct-facts .ct-title h4 { font-weight: 400 !important; font-size: 12px !important; line-height: 16px !important;
  opacity: .7 }
.ct-facts .ct-value h4 { font-weight: 600 !important }
.ct-fact:nth-child(3) .ct-value h4 { font-weight: 400 !important }
.ct-question { margin: 0 0 4px }
.ct-question h4 { font-weight: 600 !important; font-size: 16px !important }
.ct-how { margin-bottom: 8px }
.ct-how h4 { font-size: 13px !important; line-height: 17px !important }
.ct-answers { flex: 1; min-height: 0; overflow-y: auto }
.ct .lsf-hint { font-size: 12px; top: 0; margin-left: 6px; opacity: .75 }
.ct .lsf-choices { margin: 0 !important }
.ct .lsf-choice__item { margin: 0 !important; padding: 1px 0 !important }
.ct-wide { grid-template-columns: minmax(0, 1fr) 410px 250px }
.ct-many { display: flex; flex-direction: column; gap: 6px; overflow: hidden }
.ct-many .lsf-choices { display: grid !important; grid-template-columns: 1fr 1fr; align-content: start; gap: 0 10px;
  flex: 1; min-height: 0; overflow-y: auto }
.ct-many .lsf-choice { min-width: 0 }
.ct-wider { grid-template-columns: minmax(0, 1fr) 540px 250px; gap: 10px; padding: 12px 10px }
.ct-wider .ct-guide { padding-left: 10px }
.ct-wider .ct-many .lsf-choices { grid-template-columns: 1fr 1fr 1fr; grid-auto-rows: 23px; gap: 0 4px }
.ct-wider .lsf-choice__item { padding: 0 !important }
.ct-wider .lsf-choice { font-size: 13px !important; line-height: 17px !important; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis }
.ct-wider .lsf-hint { font-size: 11px; margin-left: 3px }
.ct img { display: inline-block !important; vertical-align: top }
.ct-evidence { display: flex; gap: 12px }
.ct-near p { margin: 0 0 2px; font-size: 12px; line-height: 16px; opacity: .7; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; max-width: 130px }
.ct-neighbour, .ct-example { width: 58px; height: 58px; object-fit: contain; image-rendering: pixelated;
  margin-right: 4px; background: rgba(128, 128, 128, .12); border-radius: 3px }
.ct-example { width: 38px; height: 38px; margin-right: 2px }
.ct-guide .ct-entry { display: flex; gap: 6px; margin-top: 4px; font-size: 13px; line-height: 16px }
.ct-guide .ct-entry span { flex: none; white-space: nowrap }
.ct-guide .ct-entry p { margin: 0; overflow-wrap: anywhere }
.ct-guide .ct-small { display: inline-flex; width: calc(50% - 4px); margin: 0 4px 0 0; height: 25px; gap: 4px;
  align-items: center; overflow: hidden; vertical-align: top; font-size: 12px; white-space: nowrap }
.ct-small b { overflow: hidden; text-overflow: ellipsis; min-width: 0; font-weight: 400 }
.ct-small .ct-example { width: 23px; height: 23px; margin-right: 1px }
.ct-other { margin-top: 4px }
@media (max-width: 1100px) {
  .ct { grid-template-columns: minmax(0, 1fr) 310px; grid-template-rows: max-content auto;
    align-items: start; overflow-y: auto }
  .ct-wide { grid-template-columns: minmax(0, 1fr) 340px }
  .ct-wider { grid-template-columns: minmax(0, 1fr) 420px }
  .ct-image { grid-row: 1 / 3; position: sticky; top: 0 }
  .ct-ask { display: block; min-height: auto }
  .ct-facts { max-height: none }
  .ct-guide { grid-column: 2; border-left: 0; padding-left: 0 }
  .ct-wider .ct-guide { padding-left: 0 }
  .ct-wider .ct-many .lsf-choices { grid-template-columns: 1fr 1fr }
}
@media (max-width: 900px) and (min-height: 521px), (max-width: 599px) {
  .ct { display: block; padding: 8px }
  .ct-image { position: static }
  .ct-ask { margin-top: 8px }
  .ct-guide { border-top: 1px solid rgba(128, 128, 128, .35); margin-top: 12px; padding-top: 8px }
}
@media (max-width: 900px) {
  .lsf-menu-header__context, .lsf-menu-header__hotkeys { display: none !important }
  .lsf-menu-header__user { margin-left: auto }
}
@media (max-width: 760px) {
  .lsf-editor { width: 100% !important; min-width: 0 !important }
  .ct-keys { display: none }
}
"""
