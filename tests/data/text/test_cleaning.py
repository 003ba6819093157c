"""Texts are cleaned before they are tokens; the digest of what was done is in the records' own.

Covers fedlite/data/text/reading.py.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import Dataset
from fedlite.data.text import cleaning, reading, redaction
from fedlite.data.text.reading import records
from fedlite.data.text.tokens import open_tokenizer
from fedlite.inference.tokenized import Tokenized, preprocessing
from fedlite.scenario.texts import Texts
from tests.data.text.wordy import wordy

pytest.importorskip("tokenizers")


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    return Texts("note", wordy(tmp_path / "tokenizer"), 8)


def made(found: list[str], y: list[int], texts: Texts, owners: list[int] | None = None) -> Dataset:
    whose = None if owners is None else np.array(owners)
    return records(found, np.array(y, np.int64), texts, owners=whose).data


def test_what_is_redacted_is_never_a_token(texts: Texts) -> None:
    wanted = replace(texts, redact=("email", "card"))
    found = records(
        ["the patient a@b.org has pain", "card 4111111111111111", "fever"], np.arange(3) % 2, wanted
    )
    expected = records(
        ["the patient <EMAIL> has pain", "card <CARD>", "fever"], np.arange(3), texts
    )
    assert np.array_equal(found.data.x, expected.data.x)
    told = "replaced in 2 of 3 texts: 1 e-mail addresses, 1 card numbers"
    assert found.notes[0] == told and "4111" not in str(found.notes)


def test_a_function_of_one_s_own_comes_after_the_rules(texts: Texts, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def hide(text):\n    return text.replace('Jane', '<NAME>')\n")
    own = replace(texts, redact=("email",), redactor=f"{file}:hide")
    cleaned = cleaning.clean(["Jane a@b.org", "x"], np.zeros(2), None, own, answered=True)
    assert cleaned.texts == ["<NAME> <EMAIL>", "x"]
    assert cleaned.notes == ("replaced in 1 of 2 texts: 1 e-mail addresses",)
    before = cleaning.rules(own)
    file.write_text("def hide(text):\n    return ''\n")
    assert cleaning.rules(own) != before
    # A text of which nothing is left is still a record.
    assert cleaning.clean(["x"], np.zeros(1), None, own, answered=True).texts == ["<REDACTED>"]
    file.write_text("def hide(text):\n    return None\n")
    with pytest.raises(ValueError, match=r"data\.redactor: .*must return a text, got NoneType"):
        cleaning.clean(["x"], np.zeros(1), None, own, answered=True)
    file.write_text("def hide(text):\n    return text[5]\n")
    with pytest.raises(ValueError, match=r"data\.redactor: .*fails \(IndexError.*mine\.py, line 2"):
        cleaning.clean(["x"], np.zeros(1), None, own, answered=True)


def test_texts_of_another_length_are_left_out_with_their_answers(texts: Texts) -> None:
    found = records(
        ["pain", "pain and fever", "a patient has pain", "no pain today again no"],
        np.arange(4),
        replace(texts, words=(2, 4)),
    )
    assert found.kept.tolist() == [1, 2] == found.data.y.tolist()
    assert found.notes[0] == "2 of 4 texts do not have 2 to 4 words and are left out"


def test_copies_are_of_the_whole_record_and_of_one_owner(texts: Texts) -> None:
    wanted = replace(texts, duplicates="exact")
    data = made(["pain", "pain", "pain", "fever", "pain"], [0, 0, 1, 0, 0], wanted, [0, 0, 0, 0, 1])
    assert len(data) == 4 and data.y.tolist() == [0, 1, 0, 0]


def test_one_record_more_changes_at_most_one_that_is_left(texts: Texts) -> None:
    """What the unit record rests on, tried on many tables that differ by one record."""
    rng = random.Random(4)
    wanted = replace(texts, duplicates="exact", redact=("email",), words=(1, 3))
    pool = [
        "pain",
        "Pain",
        "pain a@b.org",
        "pain c@d.org",
        "no pain",
        "a b c d e",
        "fever",
        "no fever",
    ]
    for _ in range(200):
        table = [(rng.choice(pool), rng.randint(0, 1)) for _ in range(rng.randint(1, 12))]
        more = list(table)
        more.insert(rng.randint(0, len(table)), (rng.choice(pool), rng.randint(0, 1)))
        rows = []
        for one in (table, more):
            data = made([text for text, _ in one], [y for _, y in one], wanted)
            rows.append(sorted((x.tobytes(), int(y)) for x, y in zip(data.x, data.y, strict=True)))
        fewer, all_ = rows
        left = list(all_)
        for row in fewer:
            assert row in left
            left.remove(row)
        assert len(left) <= 1


def test_copies_are_told_as_far_as_they_are_learnt(texts: Texts) -> None:
    """Two that are the same as far as is looked, of which one goes on and is cut: other records.

    Taken for copies, the shorter one would take the longer one's place: two changes for one record.
    """
    wanted = replace(texts, duplicates="exact", redact=("email",))
    address = ".".join(["a" * 60] * 10) + "@" + ".".join(["b" * 60] * 6) + ".example"
    ends = f"{address} {'x' * 60} the patient has fever {'pain ' * 300}"[: 1024 + 256]
    goes_on = ends + " and more"
    alone, both = made([goes_on], [0], wanted), made([ends, goes_on], [0, 0], wanted)
    assert len(both) == 2 and alone.x[0].tobytes() in [x.tobytes() for x in both.x]
    assert len(made([goes_on, goes_on], [0, 0], wanted)) == 1


def test_resemblance_has_no_such_bound(texts: Texts) -> None:
    """Why the unit record refuses it: one record more takes two away."""
    pytest.importorskip("datasketch")
    words = [f"w{at}" for at in range(120)]
    middle = " ".join(words)
    one, other = " ".join([*words[:-5], *"abcde"]), " ".join([*"abcde", *words[5:]])
    near = replace(texts, duplicates="near")
    assert len(made([one, other], [0, 0], near)) == 2
    assert len(made([middle, one, other], [0, 0, 0], near)) == 1


def test_every_rule_and_the_tokenizer_are_in_the_digest(
    texts: Texts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = ["the patient has pain"]
    plain = made(found, [0], texts)
    seen = {plain.digest()}
    for changed in (
        replace(texts, redact=("email",)),
        replace(texts, redact=("email", "card")),
        replace(texts, duplicates="exact"),
        replace(texts, words=(1, 9)),
        replace(texts, tokenizer=wordy(tmp_path / "other", pad="[UNK]")),
    ):
        data = made(found, [0], changed)
        same = np.array_equal(data.x[0, 0, :6], plain.x[0, 0, :6])
        assert same or changed.tokenizer != texts.tokenizer
        if changed.tokenizer == texts.tokenizer:
            assert data.digest() not in seen
        seen.add(data.digest())
    monkeypatch.setattr(reading, "VERSION", 99)
    assert made(found, [0], texts).digest() not in seen
    monkeypatch.undo()
    rule = redaction.RULES[0]
    monkeypatch.setattr(redaction, "RULES", (replace(rule, version=99), *redaction.RULES[1:]))
    assert made(found, [0], replace(texts, redact=("email",))).digest() not in seen
    # What is taken out of the records keeps it.
    assert plain.take(np.array([0])).digest() == plain.digest()
    assert Dataset(plain.x, plain.y).digest() != plain.digest()


@pytest.mark.parametrize(
    "text",
    [
        # One word that no tokenizer knows, longer than all that is looked at; then one it knows.
        "x" * 1100 + " fever",
        "fever " + "x" * 1100 + " pain",
        # What is redacted is shorter before it is cut.
        "a.very.long.name.of.somebody@hospital.example " * 60 + "fever",
        # An address that is cut in two where no more is searched, and little before it is long.
        "a.very.long.name.of.somebody@hospital.example " * 27 + "fever " + "pain " * 200,
        "the patient has pain",
    ],
)
def test_what_a_model_learns_of_a_text_is_what_it_reads_of_it_in_use(
    texts: Texts, text: str
) -> None:
    wanted = replace(texts, redact=("email",))
    content = (Path(wanted.tokenizer) / "tokenizer.json").read_bytes()
    tokenizer = open_tokenizer(wanted.tokenizer)
    how = preprocessing(tokenizer, content, column="note", length=8, redacted=("email",))
    learnt = records([text], np.zeros(1, np.int64), wanted)
    np.testing.assert_array_equal(learnt.data.x, Tokenized(how, (2, 8), content).prepared([text]))
    # Other records than before have another digest, and all others the one that they had.
    cut = len(text) > 1024
    assert any("more than 1,024 characters" in note for note in learnt.notes) == cut
    short = records(["fever"], np.zeros(1, np.int64), wanted).data
    assert (learnt.data.version != short.version) == cut


def test_words_are_counted_to_the_end_of_a_text(texts: Texts) -> None:
    few = replace(texts, words=(1, 400))
    # Of 8 tokens no more than 1,280 characters are searched, in which there are 320 words.
    found = records(["fev " * 1000, "fever"], np.zeros(2, np.int64), few)
    assert found.kept.tolist() == [1]


@pytest.mark.parametrize("done", ["text.strip().lower()", "text[-100:]", "text.upper()"])
def test_a_redactor_of_one_s_own_is_given_whole_texts(
    texts: Texts, tmp_path: Path, done: str
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"def hide(text):\n    return {done}\n")
    own = replace(texts, redact=("card",), redactor=f"{file}:hide")
    text = "a" * 1266 + " 4111 1111 1111 1111 the patient has fever"
    cleaned = cleaning.clean([text], np.zeros(1), None, own, answered=True)
    assert "4111" not in cleaned.texts[0] and "<card>" in cleaned.texts[0].lower()
    learnt = records([text], np.zeros(1, np.int64), own).data.x[0]
    assert learnt[1].sum() > 0


@pytest.mark.parametrize("wrong", ["1 / 0", "{}[text]", "None", "int(text)"])
def test_a_text_on_which_a_redactor_fails_counts_as_absent_where_records_are_private(
    texts: Texts, tmp_path: Path, wrong: str
) -> None:
    """One record may not decide whether its site answers, and no message holds a text."""
    file = tmp_path / "mine.py"
    file.write_text(f"def hide(text):\n    return {wrong} if 'fever' in text else text\n")
    own = replace(texts, redactor=f"{file}:hide", words=(1, 9))
    found, y = ["no pain", "high fever", "cough"], np.arange(3) % 2
    with pytest.raises(ValueError, match=r"^data\.redactor: .*mine\.py") as raised:
        records(found, y, own)
    left = records(found, y, own, skip_wrong=True)
    assert left.kept.tolist() == [0, 2]
    assert "1 of 3 texts count as absent" in left.notes[1]
    assert "fever" not in f"{raised.value}{left.notes}"
    assert "high" not in str(raised.getrepr(chain=False).reprcrash)
