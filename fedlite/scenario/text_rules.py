"""Rules that tie the keys of texts together, and to others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedlite.scenario.records import Data
from fedlite.scenario.texts import KINDS, LANGUAGE, PRETRAINED
from fedlite.settings import read_options

if TYPE_CHECKING:
    from fedlite.scenario.whole import Scenario


def broken(scenario: Scenario) -> list[str]:
    """Return a line for each rule about texts that the scenario breaks."""
    data, errors = scenario.data, _keys(scenario.data)
    if scenario.task.name == LANGUAGE:
        if not data.tokenizer:
            errors.append(
                f"data.tokenizer: must be set when task.name is {LANGUAGE} (rule: it is texts that "
                "are predicted), got nothing; name minilm, smollm2 or a folder"
            )
        if data.target:
            errors.append(
                f"data.target: must be empty when task.name is {LANGUAGE} (rule: a text is its own "
                f"answer), got {data.target!r}; leave it out"
            )
        if scenario.training.distill:
            errors.append(
                f"training.distill: must be 0 when task.name is {LANGUAGE} (rule: a branch answers "
                "with a loss, which teaches no other branch), got "
                f"{scenario.training.distill:g}; leave it out"
            )
    base = read_options(scenario.model.options).get("base", data.tokenizer)
    if scenario.model.name in PRETRAINED and data.tokenizer and base != data.tokenizer:
        errors.append(
            f"model.options.base: must be data.tokenizer, {data.tokenizer!r} (rule: another's "
            f"tokens mean other words), got {base!r}; set both to one, or leave the base out"
        )
    if scenario.privacy.unit == "record" and data.duplicates == "near":
        errors.append(
            "data.duplicates: must be keep or exact when privacy.unit is record (rule: one record "
            "more may take away every text that resembles it, and more than one), got 'near'; use "
            "exact, which takes away copies of the whole record only"
        )
    return errors


_OFF = (
    ("base_sha256", ""),
    ("redact", ""),
    ("redactor", ""),
    ("duplicates", "keep"),
    ("words", ""),
    ("perplexity", ""),
)


def _keys(data: Data) -> list[str]:
    """Keys of texts where there are none, and keys of a table's columns where there are."""
    errors = []
    if data.text and not data.own_table:
        errors.append(
            "data.text: names a column of csv, parquet, jsonl or hf, got "
            f"{data.text!r} with {data.name!r}; leave it out"
        )
    elif data.own_table and bool(data.text) != bool(data.tokenizer):
        errors.append(
            "data.text: must be set together with data.tokenizer (rule: the one names the column, "
            f"the other what makes tokens of it), got {data.text!r} and {data.tokenizer!r}; set "
            "both, as in data.tokenizer = 'minilm', or neither"
        )
    if data.perplexity_base and not data.perplexity:
        errors.append(
            "data.perplexity_base: says who finds data.perplexity, got "
            f"{data.perplexity_base!r} without it; set data.perplexity, or leave it out"
        )
    if not data.tokenizer:
        for key, off in _OFF:
            if (given := getattr(data, key)) != off:
                errors.append(
                    f"data.{key}: is for texts, got {given!r} without data.tokenizer; leave it out"
                )
        return errors
    for key in ("shape", "columns", "drop", "categories", "dates", "ranges"):
        if given := getattr(data, key):
            errors.append(
                f"data.{key}: must be empty where data.tokenizer is set (rule: a record is the "
                f"tokens of its text alone), got {given!r}; leave it out"
            )
    if data.text and data.text in (data.target, *data.targets, data.reading.owner):
        errors.append(
            f"data.text: must be another column than data.target and the owner's, got "
            f"{data.text!r}; name the column that holds the text"
        )
    return errors


def advice(data: Data, *, private: bool) -> list[str]:
    """Return a line for what is allowed and likely to go wrong, with the mend."""
    if private and data.redactor:
        return [
            "data: what your redactor does to a text is not seen here; it may look at that text "
            "alone (rule: one record may not change how others are read)"
        ]
    if data.text and not (data.redact or data.redactor):
        return [
            "data: addresses and numbers of people stay in the texts as they are; data.redact = "
            f"'{', '.join(KINDS)}' replaces them before anything is learnt"
        ]
    return []
