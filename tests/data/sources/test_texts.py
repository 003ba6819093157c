"""Files whose records are texts, whatever kind they are; what is wrong is told, never the text."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedlite.data import load, site_data
from fedlite.scenario.tabular import Columns
from fedlite.scenario.texts import Texts
from tests.data.text.wordy import wordy

pytest.importorskip("tokenizers")

ROWS = [
    ("north", "The patient has pain", "bad"),
    ("south", "no fever today", "good"),
    ("north", "no cough, and no pain", "good"),
    ("south", "fever again", "bad"),
]


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    return Texts(column="note", tokenizer=wordy(tmp_path / "tokenizer"), length=8)


def csv_of(folder: Path, rows: list[tuple[str, str, str]] = ROWS) -> str:
    lines = ["site,note,seen", *(f'{site},"{text}",{seen}' for site, text, seen in rows)]
    (folder / "notes.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "notes.csv")


def test_a_record_is_the_tokens_of_its_text_in_every_kind_of_file(
    tmp_path: Path, texts: Texts
) -> None:
    named = [dict(zip(("site", "note", "seen"), row, strict=True)) for row in ROWS]
    jsonl = tmp_path / "notes.jsonl"
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in named))
    parquet = tmp_path / "notes.parquet"
    arrow = pytest.importorskip("pyarrow")
    arrow.parquet = pytest.importorskip("pyarrow.parquet")
    arrow.parquet.write_table(arrow.Table.from_pylist(named), parquet)
    first = load("csv", path=csv_of(tmp_path), target="seen", texts=texts)
    assert first.train.x[1].tolist() == [[2, 11, 9, 19, 3, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    assert first.shape == (2, 8) and first.labels == ("bad", "good") and first.classes == 2
    assert first.train.y.tolist() == [0, 1, 1, 0] and not first.train.raw
    assert first.group_names == ("north", "south")
    assert first.groups is not None and first.groups.tolist() == [0, 1, 0, 1]
    for name, path in (("jsonl", jsonl), ("parquet", parquet)):
        other = load(name, path=str(path), target="seen", texts=texts)
        assert other.digest() == first.digest(), name
        settled = load(
            name, path=str(path), target="seen", texts=texts, settled=True,
            labels=("bad", "good"), columns=Columns(grouped=True),
        )  # fmt: skip
        assert settled.digest() == first.digest(), name


def test_how_many_are_cut_is_said_to_whoever_holds_them(tmp_path: Path, texts: Texts) -> None:
    short = Texts(texts.column, texts.tokenizer, 5)
    source = load("csv", path=csv_of(tmp_path), target="seen", texts=short)
    told = "2 of 4 texts are longer than data.length, 5 tokens, and are cut"
    assert source.notes == (told,) and "note" not in source.origin
    assert (
        source.digest() != load("csv", path=csv_of(tmp_path), target="seen", texts=texts).digest()
    )


def test_numbers_can_be_answered_and_a_text_can_be_its_own_answer(
    tmp_path: Path, texts: Texts
) -> None:
    rows = [(site, text, str(at)) for at, (site, text, _) in enumerate(ROWS)]
    path = csv_of(tmp_path, rows)
    ranged = (("seen", 0.0, 4.0),)
    source = load(
        "csv", path=path, target="seen", texts=texts, task="regression", target_ranges=ranged
    )
    assert source.train.y.ravel().tolist() == [-1.0, -0.5, 0.0, 0.5]
    own = load("csv", path=path, texts=texts, task="causal-lm")
    assert own.train.classes is None and own.train.y.tolist() == [[0.0]] * 4
    assert own.labels == ("nll",) and np.array_equal(own.train.x, source.train.x)


WRONG = {
    "empty": (("north", "  ", "bad"), r"line 6, column 'note': a text must not be empty"),
    "no label": (("north", "secret", ""), r"line 6, column 'seen': a label must be present"),
    "an odd site": (("no rth", "secret", "bad"), r"line 6, column 'site': a site's name must be"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_row_that_does_not_fit_is_told_without_its_text(
    tmp_path: Path, texts: Texts, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    row, message = WRONG[what]
    path = csv_of(tmp_path, [*ROWS, row])
    with pytest.raises(ValueError, match=message) as error:
        load("csv", path=path, target="seen", texts=texts)
    assert "secret" not in str(error.value)
    # Where records are private it counts as absent, and its own log alone says so.
    with caplog.at_level(logging.WARNING, "fedlite.site"):
        source = load(
            "csv", path=path, target="seen", texts=texts, labels=("bad", "good"), skip_wrong=True
        )
    assert len(source.train) == 4 and "counts as absent" in caplog.text
    assert "secret" not in caplog.text


def test_half_a_character_is_refused(tmp_path: Path, texts: Texts) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text('{"note": "\\ud83d", "seen": "bad"}\n')
    with pytest.raises(ValueError, match=r"line 1, column '': every line must be JSON"):
        load("jsonl", path=str(path), target="seen", texts=texts)


def test_what_no_screen_shows_is_no_text(tmp_path: Path, texts: Texts) -> None:
    path = tmp_path / "a.jsonl"
    for unseen in ("\u200b\u200b", "\x00", "\u00ad \u3000", "\u202e"):
        path.write_text(json.dumps({"note": unseen, "seen": "bad"}) + "\n")
        with pytest.raises(ValueError, match=r"line 1, column 'note': a text must not be empty"):
            load("jsonl", path=str(path), target="seen", texts=texts)


def test_a_text_that_no_machine_can_cut_is_refused(tmp_path: Path, texts: Texts) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"note": "pain " * 200_001, "seen": "bad"}) + "\n")
    with pytest.raises(ValueError, match=r"at most 1,000,000 characters, got '1,000,004'; cut it"):
        load("jsonl", path=str(path), target="seen", texts=texts)


def test_more_text_than_memory_has_room_for_is_refused(
    tmp_path: Path, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedlite.data.sources.texts.available_memory", lambda: 16 * 20)
    with pytest.raises(ValueError, match=r"must have at most 20 characters of text.*has more"):
        load("csv", path=csv_of(tmp_path), target="seen", texts=texts)


def test_where_no_text_stays_it_is_told_why(tmp_path: Path, texts: Texts) -> None:
    none = replace(texts, words=(50, 60))
    with pytest.raises(ValueError, match=r"none does: .* do not have 50 to 60 words.*data\.words"):
        load("csv", path=csv_of(tmp_path), target="seen", texts=none)
    # Where records are private it is nobody's business, and nothing is trained on.
    given = {"labels": ("bad", "good"), "skip_wrong": True}
    private = load("csv", path=csv_of(tmp_path), target="seen", texts=none, **given)
    assert len(private.train) == 0


@pytest.mark.data("sentiment")
def test_columns_that_are_not_there_are_named_by_their_key(tmp_path: Path, texts: Texts) -> None:
    path = csv_of(tmp_path)
    with pytest.raises(ValueError, match=r"'Note': data\.text must be in the header.*mean 'note'"):
        load("csv", path=path, target="seen", texts=Texts("Note", texts.tokenizer, 8))
    with pytest.raises(ValueError, match=r"'sen': the label column `target` must be in the header"):
        load("csv", path=path, target="sen", texts=texts)
    with pytest.raises(ValueError, match=r"data\.tokenizer: is for data whose records are texts"):
        load("digits", texts=texts)
    with pytest.raises(ValueError, match=r"data\.tokenizer: must be set for texts"):
        load("sentiment", texts=Texts())


def test_one_text_that_was_judged_twice_stands_on_one_side(tmp_path: Path, texts: Texts) -> None:
    """Who is held out hangs on the text alone: else what is asked had been learnt before."""
    words = "the a patient has pain fever cough no good bad great awful film and was".split()
    rows = [
        ("north", f"{one} {two}", seen) for one in words for two in words for seen in ("x", "y")
    ]
    source = load("csv", path=csv_of(tmp_path, rows), target="seen", texts=texts)
    (site,) = site_data(source, kind="iid", sites=1, alpha=1.0, seed=3)
    learnt = {row.tobytes() for row in site.train.x}
    assert len(site.test) > 50 and not learnt & {row.tobytes() for row in site.test.x}
