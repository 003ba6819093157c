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
from numpy.typing import NDArray

from fedlite.data.dataset import Answers, Indices
from fedlite.data.text.duplicates import (
    THRESHOLD,
    WORDS,
    first_of_alike,
    first_of_each,
)
from fedlite.data.text.perplexity import rule, within
from fedlite.data.text.redaction import redact, searched, shown, versions
from fedlite.registry import Registry, digest_of, file_of, label, place_of
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
    skip_wrong: bool = False,
) -> Cleaned:
    """Return the texts as the settings want them.

    most: characters of a text of which something is made; of a longer one `searched` is looked at.
    Its words are counted to the end.

    y: the answers, a row a text, told apart where `answered`. owners: whose each text is, int64
    [n]; None where all are one's: what one site holds takes nothing away from another.

    skip_wrong: a text on which the user's own redactor fails counts as absent.

    Raises ValueError, without the text, where that redactor fails, and where an extra is missing.
    """
    looked = [searched(text, most) for text in found]
    done, absent, notes = _redacted(looked, texts, skip_wrong=skip_wrong)
    rests = [text[len(part) :] for text, part in zip(found, looked, strict=True)]
    whole = zip(done, rests, strict=True)
    fits = np.array([_fits(text + rest, texts) for text, rest in whole], np.bool_)
    kept = np.flatnonzero(fits & ~absent)
    if left := int((~fits & ~absent).sum()):
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
            *([_COPIES] if texts.duplicates != "keep" else []),
        ],
        "words": list(texts.words),
    }


def _content(name: str) -> str:
    """Return the digest of a file of one's own and those that it imports; "" for a name."""
    file = file_of(name)
    return digest_of(file) if file is not None and file.is_file() else ""


def _redacted(
    found: Sequence[str], texts: Texts, *, skip_wrong: bool
) -> tuple[list[str], NDArray[np.bool_], list[str]]:
    """Return the texts redacted, which of them count as absent, bool [n], and what to say."""
    absent = np.zeros(len(found), np.bool_)
    if not (texts.redact or texts.redactor):
        return list(found), absent, []
    own = _own(texts.redactor) if texts.redactor else None
    counts: Counter[str] = Counter()
    done, changed, notes = [], 0, list[str]()
    for at, before in enumerate(found):
        text, counted = redact(before, texts.redact)
        counts.update(counted)
        try:
            text = own(text) if own is not None else text
        except ValueError as error:
            if not skip_wrong:
                raise
            absent[at] = True
            notes = [f"{int(absent.sum()):,} of {len(found):,} texts count as absent: {error}"]
        changed += text != before
        done.append(text)
    told = ", ".join(f"{counts[kind]:,} {_SAID[kind]}" for kind in texts.redact)
    said = f"replaced in {changed:,} of {len(done):,} texts{': ' + told if told else ''}"
    return done, absent, [said, *notes]


def _own(name: str) -> Callable[[str], str]:
    builder = REDACTORS.get(name)
    if not callable(builder):
        REDACTORS.call(name, builder, "")
    REDACTORS.check_arguments(name, builder, ("",))

    def redacted(text: str) -> str:
        try:
            made = builder(text)
        except Exception as error:  # whatever foreign code raises
            # What it says may hold the text.
            at = place_of(error, getattr(getattr(builder, "__code__", None), "co_filename", ""))
            said = f"{REDACTORS.key}: {name!r} fails ({type(error).__name__})"
            raise ValueError(f"{said}; mend {at or name}") from None
        if not isinstance(made, str):
            raise REDACTORS.wrong(name, builder, f"must return a text, got {type(made).__name__}")
        # A text of which nothing is left is still a record.
        return made.strip() or "<REDACTED>"

    return redacted


def _fits(text: str, texts: Texts) -> bool:
    low, high = texts.words
    return not high or low <= len(text.split()) <= high
