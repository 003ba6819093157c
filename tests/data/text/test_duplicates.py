"""Copies and look-alikes in a made mailing list, held against all pairs compared one by one."""

from __future__ import annotations

import random

import pytest

from fedlite.data.text.duplicates import (
    THRESHOLD,
    first_of_alike,
    first_of_each,
    resemblance,
    shingles,
)

pytest.importorskip("datasketch")
WORDS = [f"w{number}" for number in range(400)]


def mailing_list(seed: int = 3) -> tuple[list[str], list[int]]:
    """Return mails and the number of the letter that each is of: some changed by a word or two."""
    rng = random.Random(seed)
    mails, letters = [], []
    for letter in range(120):
        words = rng.choices(WORDS, k=150)
        for copy in range(rng.randint(1, 4)):
            changed = list(words)
            if copy == 2:
                changed[0] = rng.choice(WORDS)  # another name to begin with
            if copy == 3:
                changed += ["unsubscribe", str(rng.randint(0, 9))]
            mails.append("Dear all, " + " ".join(changed))
            letters.append(letter)
    order = rng.sample(range(len(mails)), len(mails))
    return [mails[at] for at in order], [letters[at] for at in order]


def test_of_every_letter_one_mail_stays() -> None:
    mails, letters = mailing_list()
    kept = first_of_alike(mails, [0] * len(mails)).tolist()
    assert kept == sorted(kept) and [letters[at] for at in kept] == list(dict.fromkeys(letters))


@pytest.mark.long
def test_what_is_left_out_truly_resembles_what_stays() -> None:
    """Every pair by hand: nothing goes that resembles nothing, and hardly anything is missed."""
    rng = random.Random(9)
    texts = []
    for _ in range(60):
        words = rng.choices(WORDS, k=60)
        texts.append(" ".join(words))
        for count in (1, 2, 3, 6, 10):
            changed = list(words)
            for at in rng.sample(range(60), count):
                changed[at] = rng.choice(WORDS)
            texts.append(" ".join(changed))
            # One word at the end is in one run only.
            texts.append(" ".join([*words[:-count], *rng.choices(WORDS, k=count)]))
    kept = set(first_of_alike(texts, [0] * len(texts)).tolist())
    sets = list(map(shingles, texts))
    missed = 0
    for at in range(len(texts)):
        alike = [one for one in kept if one < at and resemblance(sets[one], sets[at]) >= THRESHOLD]
        assert at in kept or alike
        missed += at in kept and bool(alike)
    gone = len(texts) - len(kept)
    assert gone > 100 and missed <= 0.02 * gone


def test_what_another_holds_takes_nothing_away() -> None:
    text = " ".join(WORDS[:40])
    assert first_of_alike([text, text, text], [0, 1, 0]).tolist() == [0, 1]


def test_short_texts_resemble_only_themselves() -> None:
    texts = ["no pain", "No pain!", "no pain today", "", "...", "pain"]
    assert first_of_alike(texts, [0] * len(texts)).tolist() == [0, 2, 3, 4, 5]
    assert first_of_alike([], []).tolist() == []


def test_the_first_of_copies_stays() -> None:
    assert first_of_each([("a", 1), ("a", 2), ("a", 1), ("b", 1)]).tolist() == [0, 1, 3]
    assert first_of_each([]).tolist() == []
