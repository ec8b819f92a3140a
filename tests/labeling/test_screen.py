"""The labeling screen: what it asks, shows and hides, for any classes."""

from __future__ import annotations

import html
import re
import string
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import ConfigError
from curation.records import AMBIGUOUS, BAD_IMAGE, OTHER, Classes
from labeling.screen import (
    AMBIGUOUS_KEY,
    BAD_IMAGE_KEY,
    CLASS_KEYS,
    OTHER_KEY,
    evidence,
    labeling_config,
    read_texts,
)
from labeling.tasks import STREAMS, Stream

TEXTS = read_texts()
#: Single keys that the editor itself listens to (Label Studio 1.23, all tools).
EDITOR_KEYS = set("behkmoprvwu[]")


def classes_of(count: int) -> Classes:
    return Classes(tuple(f"c{i}" for i in range(count)), tuple(f"class {i}" for i in range(count)))


def screen(classes: Classes, mode: Stream = "shown", guide: dict[str, str] | None = None) -> Xml.Element:
    return Xml.fromstring(labeling_config(classes, mode=mode, texts=TEXTS, guide=guide))


def guide_of(root: Xml.Element) -> list[str]:
    return [h.get("value") or "" for h in root.iter("HyperText") if h.get("name") == "guide"]


@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("count", [2, 10, 12, 13, 23, 24, 200])
def test_every_class_and_every_special_answer_can_be_chosen(count: int, mode: Stream) -> None:
    choices = screen(classes_of(count), mode).findall(".//Choice")
    assert {c.get("alias") for c in choices} == {*classes_of(count).ids, AMBIGUOUS, BAD_IMAGE, OTHER}
    keys = [c.get("hotkey") for c in choices if c.get("hotkey")]
    assert len(keys) == len(set(keys)) == min(count, len(CLASS_KEYS)) + 3


def test_keys_stay_clear_of_the_editor_and_of_one_another() -> None:
    keys = [*CLASS_KEYS, AMBIGUOUS_KEY, BAD_IMAGE_KEY, OTHER_KEY]
    assert len(keys) == len(set(keys))
    assert not EDITOR_KEYS & set(keys)
    assert {key.removeprefix("shift+") for key in keys} <= set(string.digits + string.ascii_lowercase)
    assert not {"shift+1", "shift+2", "shift+r", "shift+f"} & set(keys)  # zooming, drawing, and the search field


@pytest.mark.parametrize("mode", STREAMS)
def test_nothing_is_selected_beforehand_and_one_answer_is_required(mode: Stream) -> None:
    root = screen(classes_of(2), mode)
    (choices,) = root.findall(".//Choices")
    assert (choices.get("choice"), choices.get("required")) == ("single-radio", "true")
    assert not [c for c in root.iter("Choice") if c.get("selected")]


def test_the_blind_screen_asks_for_no_field_but_the_image() -> None:
    blind = labeling_config(classes_of(3), mode="blind", texts=TEXTS)
    assert blind.count("$") == 1
    assert 'value="$image"' in blind


def test_the_shown_screen_shows_label_suggestion_and_reason() -> None:
    values = {h.get("value") for h in screen(classes_of(2)).iter("Header")}
    assert {"$given_label", "$suggestion", "$reason"} <= values


def test_pixels_stay_crisp() -> None:
    (image,) = screen(classes_of(2)).iter("Image")
    assert (image.get("value"), image.get("smoothing")) == ("$image", "false")


def test_many_classes_get_a_search_field_and_the_special_answers_first() -> None:
    root = screen(classes_of(13))
    assert root.find(".//Filter") is not None
    assert [c.get("alias") for c in root.iter("Choice")][:3] == [AMBIGUOUS, BAD_IMAGE, OTHER]
    assert screen(classes_of(12)).find(".//Filter") is None


def test_the_guide_says_what_classes_mean() -> None:
    (page,) = guide_of(screen(classes_of(2), guide={"c1": "round"}))
    assert "<b>class 1</b> round" in page
    assert "class 0" not in page


def test_the_guide_shows_examples_unless_there_are_too_many_classes() -> None:
    def page(count: int) -> str:
        root = Xml.fromstring(
            labeling_config(classes_of(count), mode="blind", texts=TEXTS, examples={"c1": ["/i/1.png", '/"2.png']})
        )
        return guide_of(root)[0]

    assert re.findall(r'src="([^"]*)"', page(2)) == ["/i/1.png", "/&quot;2.png"]
    assert "src" not in page(61)


def test_what_lies_near_is_shown_by_class_and_its_name_is_no_markup() -> None:
    page = evidence([("<b>cat", ["/1.png", "/2.png"]), ("dog", [])], TEXTS)
    assert re.findall(r'src="([^"]*)"', page) == ["/1.png", "/2.png"]
    assert "&lt;b&gt;cat" in page
    assert "dog" not in page


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z")), min_size=1, max_size=30),
                min_size=1, max_size=5, unique=True), st.sampled_from(STREAMS))  # fmt: skip
def test_any_name_survives_and_becomes_no_markup(names: list[str], mode: Stream) -> None:
    classes = Classes(tuple(f"c{i}" for i in range(len(names))), tuple(names))
    root = screen(classes, mode, dict(zip(classes.ids, names, strict=True)))
    chosen = {c.get("alias"): (c.get("value") or "").replace("$\u2060", "$") for c in root.iter("Choice")}
    assert {class_id: chosen[class_id] for class_id in classes.ids} == dict(classes)
    assert {e.tag for e in root.iter()} <= {
        "View", "Style", "Image", "Header", "HyperText", "Choices", "Choice", "TextArea",
    }  # fmt: skip
    (page,) = guide_of(root)
    assert set(re.findall(r"</?(\w+)", page)) <= {"div", "span", "p", "b"}


def test_markup_and_fields_in_names_are_taken_as_words() -> None:
    name = '"/><Choice value="x"/> $image & <b>'
    root = screen(Classes(("c1", "c2"), (name, "dog")), "blind", {"c1": name})
    assert len(root.findall(".//Choice")) == 5
    (page,) = guide_of(root)
    assert page.count(html.escape(name).replace("$", "$\u2060")) == 2
    assert "$image" not in page


def test_no_answer_is_taken_for_a_field() -> None:
    texts = replace(TEXTS, ambiguous="$5 or more", bad_image="$image", other="US$reason")
    page = labeling_config(Classes(("c1", "c2"), ("$5", "$10 note")), mode="shown", texts=texts)
    answers = {c.get("alias"): c.get("value") or "" for c in Xml.fromstring(page).iter("Choice")}
    assert not [words for words in answers.values() if re.search(r"\$[\w[\].{}]", words)]  # Label Studio's own pattern
    assert {alias: words.replace("\u2060", "") for alias, words in answers.items()} == {
        "c1": "$5", "c2": "$10 note", AMBIGUOUS: "$5 or more", BAD_IMAGE: "$image", OTHER: "US$reason",
    }  # fmt: skip


def test_words_of_ones_own_take_the_place_of_those_shipped(tmp_path: Path) -> None:
    file = tmp_path / "texts.toml"
    file.write_text('bad_image = "schlechtes Bild"\nhow_blind = "Nur nach dem Bild; dann {send}."\n', encoding="utf-8")
    texts = read_texts(file)
    assert texts.ambiguous == TEXTS.ambiguous
    page = labeling_config(classes_of(2), mode="blind", texts=texts, send="Enter")
    assert 'value="schlechtes Bild"' in page
    assert "Nur nach dem Bild; dann Enter." in page


def test_what_other_means_can_be_said_whatever_its_word_is(tmp_path: Path) -> None:
    """Label Studio takes apart at commas what it compares answers with."""
    file = tmp_path / "texts.toml"
    file.write_text('other = "autre, à préciser"\n', encoding="utf-8")
    root = Xml.fromstring(labeling_config(classes_of(2), mode="blind", texts=read_texts(file)))
    (field,) = (view for view in root.iter("View") if view.find("TextArea") is not None)
    (other,) = (choice for choice in root.iter("Choice") if choice.get("value") == "autre, à préciser")
    assert (field.get("whenChoiceValue") or "").split(",") == [other.get("alias")]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ('titel = "x"', "'titel' is no text of the screen; there are ambiguous,"),
        ("find = 3", "'find' must be a text, got 3"),
        ('find = ""', "'find' must be a text"),
        ('nearest = "nah"', "'nearest' must hold {name}, got 'nah'"),
        ('find = "such {send}"', "'find' must hold no braces"),
        ('nearest = "{name} {"', "'nearest' must hold {name}"),
        ("find", "can't be read as TOML"),
    ],
)
def test_words_that_do_not_fit_are_named(tmp_path: Path, words: str, complaint: str) -> None:
    file = tmp_path / "texts.toml"
    file.write_text(words, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_texts(file)
    assert complaint in str(refused.value)
    assert "texts.toml" in str(refused.value)
