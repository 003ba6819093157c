"""What the keys of texts may say, alone and together.

Covers fedlite/scenario/text_rules.py, fedlite/scenario/texts.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from fedlite.scenario import ScenarioError, from_dict
from fedlite.scenario.texts import Texts

NOTES: dict[str, Any] = {
    "name": "csv",
    "path": "notes.csv",
    "text": "note",
    "target": "seen",
    "tokenizer": "minilm",
}
PRIVATE = {
    "privacy": {"unit": "record", "expected_batch": 8, "sampling_rate": 0.1},
    "training": {"steps": 2},
    "federation": {"weighting": "uniform"},
}


def test_the_keys_say_how_a_text_is_read() -> None:
    more = {"length": 32, "redact": "phone, email", "duplicates": "near", "words": "3:400"}
    data = from_dict({"data": NOTES | more}).data
    expected = Texts("note", "minilm", 32, ("email", "phone"), "", "near", (3, 400))
    assert data.texts == expected and data.sizes == (2, 32)
    assert from_dict({}).data.texts.tokenizer == ""


def told(**tables: dict[str, Any]) -> str:
    with pytest.raises(ScenarioError) as error:
        from_dict(tables)
    return str(error.value)


WRONG = {
    "no tokenizer": ({"tokenizer": ""}, "data.text: must be set together with data.tokenizer"),
    "no column": ({"text": ""}, "data.text: must be set together with data.tokenizer"),
    "features": ({"columns": "age"}, "data.columns: must be empty where data.tokenizer is set"),
    "ranges": ({"ranges": "0:1"}, "data.ranges: must be empty where data.tokenizer is set"),
    "the label": ({"target": "note"}, "data.text: must be another column than data.target"),
    "a kind": ({"redact": "emails"}, "data.redact: must be empty, or any of email, iban, card"),
    "words": ({"words": "9:3"}, "data.words: must be empty, or LOW:HIGH"),
    "short": ({"length": 3}, "data.length: must be at least 4"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_key_of_texts_is_told(what: str) -> None:
    changed, message = WRONG[what]
    assert message in told(data=NOTES | changed)


def test_keys_of_texts_are_refused_where_there_are_none() -> None:
    for key, value in (("redact", "email"), ("duplicates", "exact"), ("words", "1:9")):
        assert f"data.{key}: is for texts" in told(data={key: value})
    assert "data.text: names a column of csv" in told(data={"text": "note"})


def test_a_language_model_has_neither_labels_nor_a_target() -> None:
    task = {"name": "causal-lm"}
    own = {key: value for key, value in NOTES.items() if key != "target"}
    scenario = from_dict({"data": own, "task": task})
    assert scenario.width == 1 and not scenario.classifies
    assert "data.target: must be empty when task.name is causal-lm" in told(data=NOTES, task=task)
    assert "data.tokenizer: must be set when task.name is causal-lm" in told(task=task)
    assert "data.labels: is for classification" in told(data=own | {"labels": "a, b"}, task=task)
    assert "training.distill: must be 0" in told(data=own, task=task, training={"distill": 0.5})
    at_sites = {key: value for key, value in own.items() if key != "path"}
    assert from_dict({"data": at_sites, "task": task}).data.at_sites


def test_private_texts_need_no_scaling_and_no_resemblance() -> None:
    private = NOTES | {"labels": "bad, good"}
    assert from_dict({"data": private | {"duplicates": "exact"}, **PRIVATE}).private
    message = told(data=private | {"duplicates": "near"}, **PRIVATE)
    assert message.startswith("data.duplicates: must be keep or exact when privacy.unit is record")
    client = {"privacy": {"unit": "client"}}
    assert from_dict({"data": private | {"duplicates": "near"}, **client}).private


def test_a_tokenizer_is_a_name_or_a_path() -> None:
    plain = from_dict({"data": NOTES}).notable()
    assert plain["data.tokenizer"] == "minilm"
    shown = from_dict({"data": NOTES | {"tokenizer": "/home/jane/mine"}}).notable()
    assert shown["data.tokenizer"] == "set"


def test_texts_that_are_left_as_they_are_are_worth_a_word() -> None:
    notes = from_dict({"data": NOTES}).notes
    assert any("data.redact = 'email, iban, card, id, phone'" in note for note in notes)
    redacted = from_dict({"data": NOTES | {"redact": "email"}}).notes
    assert not any("data.redact" in note for note in redacted)


def test_texts_get_a_pretrained_model_of_their_own_tokens_and_steps_that_move_it() -> None:
    """`cosine` and plain SGD, which others get, would learn nothing from numbers of words."""
    texts = {"data": {"name": "sentiment", "tokenizer": "minilm"}}
    found = from_dict(texts)
    assert (found.model.name, found.model.options) == ("lora", '{"base": "minilm"}')
    assert (found.training.optimizer, found.training.learning_rate) == ("adam", 0.003)
    assert sum("as the scenario names none" in note for note in found.notes) >= 3
    language = from_dict(texts | {"task": {"name": "causal-lm"}})
    assert language.model.name == "lora-lm"
    private = from_dict(texts | {"privacy": {"unit": "record"}, "training": {"steps": 1}})
    assert private.model.name == "lora" and private.training.optimizer == "sgd"
    own = from_dict(texts | {"training": {"optimizer": "sgd", "learning_rate": 0.5}})
    assert (own.training.optimizer, own.training.learning_rate) == ("sgd", 0.5)
    assert from_dict({"training": {"optimizer": "adam"}}).training.learning_rate == 0.001
    # What has been settled stays so when it is read again.
    assert from_dict(found.to_dict()) == found


def test_a_base_is_the_one_whose_tokens_the_data_are() -> None:
    tables = {
        "data": {"name": "sentiment", "tokenizer": "minilm"},
        "model": {"name": "lora", "options": {"base": "smollm2"}},
    }
    with pytest.raises(ScenarioError, match=r"model\.options\.base: must be data\.tokenizer"):
        from_dict(tables)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"training": {"momentum": 0.9}}, "training.momentum: must be 0 with optimizer adam"),
        ({"training": {"objective": "scaffold"}}, "training.optimizer: must be sgd with scaffold"),
        (
            {"privacy": {"unit": "record"}, "training": {"steps": 1}},
            "training.optimizer: must be sgd when privacy.unit is record",
        ),
    ],
)
def test_what_does_not_go_with_adam_is_told(tables: dict[str, Any], message: str) -> None:
    tables = tables | {"training": {"optimizer": "adam", **tables.get("training", {})}}
    with pytest.raises(ScenarioError, match=message):
        from_dict(tables)
