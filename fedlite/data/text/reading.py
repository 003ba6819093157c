"""Texts with their answers to records: cleaned, made into tokens, and what to say of it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlite.data.dataset import Answers, Dataset, Indices
from fedlite.data.rows import check_memory
from fedlite.data.text.cleaning import clean, rules
from fedlite.data.text.redaction import shown
from fedlite.data.text.tokens import LETTERS, open_tokenizer
from fedlite.scenario.texts import LANGUAGE, NLL, Texts

# Changed with whatever makes other records of the same texts; ledgers commit to it.
VERSION = 1


@dataclass(frozen=True)
class Kept:
    """The records of texts. kept: which of the texts they are, int64 [n], ascending."""

    data: Dataset
    kept: Indices
    notes: tuple[str, ...]


def records(
    found: Sequence[str],
    y: Answers,
    texts: Texts,
    *,
    owners: Indices | None = None,
    task: str = "classification",
    where: str = "",
    skip_wrong: bool = False,
) -> Kept:
    """Return the records of texts, each with its answer.

    y: as in a data set, a row a text; where the texts are their own answers (`causal-lm`) it is not
    looked at, and is 0 nats, the loss of who foresees every token. owners: whose each text is,
    int64 [n], None where that is not told apart. where: the file, for messages. skip_wrong: as of
    `clean`.

    x is int64 [n, 2, length]: token ids over a mask, which is 0 where the padding is. Raises
    ValueError as `open_tokenizer` and `Tokenizer.encode` do.
    """
    if not texts.tokenizer:
        raise ValueError(
            f"data.tokenizer: must be set for texts, which {where} holds, got nothing; name "
            "minilm, smollm2 or a folder with tokenizer.json"
        )
    tokenizer = open_tokenizer(texts.tokenizer)
    what = f"{len(found):,} texts of {texts.length:,} tokens, as data.length says"
    check_memory(where, len(found) * 2 * texts.length, what)
    # As where a model is used: see `fedlite.inference.tokenized`. A redactor of one's own, which no
    # bundle has, is given whole texts: it may shorten them anywhere.
    most = sys.maxsize if texts.redactor else LETTERS * texts.length
    answered = task != LANGUAGE
    cleaned = clean(found, y, owners, texts, answered=answered, most=most, skip_wrong=skip_wrong)
    whole = [found[at] for at in cleaned.kept.tolist()]
    short = [shown(*pair, most) for pair in zip(whole, cleaned.texts, strict=True)]
    x, cut = tokenizer.encode(short, texts.length)
    notes = list(cleaned.notes)
    if beyond := sum(one != other for one, other in zip(short, cleaned.texts, strict=True)):
        notes.append(
            f"{beyond:,} of {len(x):,} texts have more than {most:,} characters, {LETTERS} for "
            "each token, and are cut there"
        )
    if cut:
        notes.append(
            f"{cut:,} of {len(x):,} texts are longer than data.length, {texts.length} tokens, and "
            "are cut"
        )
    answers = y[cleaned.kept]
    if task == LANGUAGE:
        if bare := int((x[:, 1].sum(1) < 2).sum()):
            notes.append(
                f"{bare:,} of {len(x):,} texts are one token, of which nothing is foreseen: each "
                f"counts as {NLL} 0; data.words leaves short texts out"
            )
        answers = np.zeros((len(x), 1), np.float32)
    made = {"tokens": VERSION, "tokenizer": tokenizer.digest, "length": texts.length}
    made |= {"cleaning": rules(texts)}
    if beyond:
        # Others are the records that they were before texts were cut so.
        made |= {"letters": LETTERS}
    version = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return Kept(Dataset(x, answers, version=version), cleaned.kept, tuple(notes))
