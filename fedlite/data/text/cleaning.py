"""What is done to texts at the site, before anything is learnt: redacted, filtered, each kept once.

How many were changed or left out is told to whoever holds the texts, and to nobody else. What was
done is named by a digest that goes into the records' own, to which a ledger commits: with another
rule they are other records.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlite.data.dataset import Answers, Indices
from fedlite.data.text.duplicates import (
    THRESHOLD,
    WORDS,
    first_of_alike,
    first_of_each,
)
from fedlite.data.text.perplexity import rule, within
from fedlite.data.text.redaction import redact, searched, shown, versions
from fedlite.registry import Registry, digest_of, file_of, label
from fedlite.scenario.texts import Texts

# Raised when duplicates or the count of words come to something else.
VERSION = 2
# How copies are told; other records than before, and those of who keeps copies are the same.
_COPIES = 2
REDACTORS: Registry[Any] = Registry(
    "data.redactor", "fedlite.redactors", {}, takes="(text) and returns the text redacted"
)
_SAID = {
    "email": "e-mail addresses",
    "phone": "telephone numbers",
    "iban": "IBANs",
    "card": "card numbers",
    "id": "numbers of people",
}


@dataclass(frozen=True)
class Cleaned:
    """texts: those that are left. kept: which they are, int64, ascending. notes: a line each."""

    texts: list[str]
    kept: Indices
    notes: tuple[str, ...]


def clean(
    found: Sequence[str],
    y: Answers,
    owners: Indices | None,
    texts: Texts,
    *,
    answered: bool,
    most: int = sys.maxsize,
) -> Cleaned:
    """Return the texts as the settings want them.

    most: characters of a text of which something is made; of a longer one `searched` is looked at.
    Its words are counted to the end.

    y: the answers, a row a text, told apart where `answered`. owners: whose each text is, int64
    [n]; None where all are one's: what one site holds takes nothing away from another.

    Raises ValueError as the user's own redactor does, and where an extra is missing.
    """
    looked = [searched(text, most) for text in found]
    done, notes = _redacted(looked, texts)
    rests = [text[len(part) :] for text, part in zip(found, looked, strict=True)]
    fits = [_fits(text + rest, texts) for text, rest in zip(done, rests, strict=True)]
    kept = np.flatnonzero(fits)
    if left := len(done) - len(kept):
        low, high = texts.words
        notes.append(
            f"{left:,} of {len(done):,} texts do not have {low} to {high} words and are left out"
        )
    if texts.perplexity[1]:
        before = len(kept)
        kept = kept[np.array(within([done[at] for at in kept], texts), bool)]
        if odd := before - len(kept):
            ends = "{:g} to {:g}".format(*texts.perplexity)
            notes.append(
                f"{odd:,} of {before:,} texts have no perplexity from {ends}, and are left out"
            )
    whose = np.zeros(len(done), np.int64) if owners is None else owners
    if texts.duplicates != "keep":
        before = len(kept)
        # Of what answers itself every answer is the same.
        answers = [row.tobytes() if answered else b"" for row in y]
        # As it is told: of two that are the same as far as is looked, one may go on and be cut.
        told = {at: shown(found[at], done[at], most) for at in kept.tolist()}
        keys: list[Hashable] = [(text, answers[at], int(whose[at])) for at, text in told.items()]
        kept = kept[first_of_each(keys)]
        if copies := before - len(kept):
            notes.append(f"{copies:,} of {before:,} texts are copies of others and are left out")
    if texts.duplicates == "near":
        before = len(kept)
        kept = kept[first_of_alike([done[at] for at in kept], whose[kept].tolist())]
        if alike := before - len(kept):
            notes.append(
                f"{alike:,} of {before:,} texts resemble others (at least {THRESHOLD:g} of their "
                f"runs of {WORDS} words) and are left out"
            )
    return Cleaned([done[at] for at in kept], kept, tuple(notes))


def rules(texts: Texts) -> dict[str, Any]:
    """Return what decides what cleaning makes of texts, ready for JSON."""
    odd = rule(texts)
    return ({"perplexity": odd} if odd else {}) | {
        "version": VERSION,
        "redact": versions(texts.redact),
        "redactor": [label(texts.redactor), _content(texts.redactor)] if texts.redactor else [],
        "duplicates": [
            texts.duplicates,
            THRESHOLD,
            WORDS,
            *[_COPIES][: texts.duplicates != "keep"],
        ],
        "words": list(texts.words),
    }


def _content(name: str) -> str:
    """Return the digest of a file of one's own and those that it imports; "" for a name."""
    file = file_of(name)
    return digest_of(file) if file is not None and file.is_file() else ""


def _redacted(found: Sequence[str], texts: Texts) -> tuple[list[str], list[str]]:
    if not (texts.redact or texts.redactor):
        return list(found), []
    own = _own(texts.redactor) if texts.redactor else None
    counts: Counter[str] = Counter()
    done, changed = [], 0
    for before in found:
        text, counted = redact(before, texts.redact)
        counts.update(counted)
        text = own(text) if own is not None else text
        changed += text != before
        done.append(text)
    told = ", ".join(f"{counts[kind]:,} {_SAID[kind]}" for kind in texts.redact)
    return done, [f"replaced in {changed:,} of {len(done):,} texts{': ' + told if told else ''}"]


def _own(name: str) -> Callable[[str], str]:
    builder = REDACTORS.get(name)

    def redacted(text: str) -> str:
        made = REDACTORS.call(name, builder, text)
        if not isinstance(made, str):
            raise REDACTORS.wrong(name, builder, f"must return a text, got {type(made).__name__}")
        # A text of which nothing is left is still a record.
        return made.strip() or "<REDACTED>"

    return redacted


def _fits(text: str, texts: Texts) -> bool:
    low, high = texts.words
    return not high or low <= len(text.split()) <= high
