"""Texts become the tokens that transformers makes of them; whatever is wrong is told by its key.

Covers fedlite/data/text/gguf.py, fedlite/data/text/tokens.py.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlite.data import BASES
from fedlite.data.text import gguf
from fedlite.data.text.tokens import digest_of, open_tokenizer
from tests.data.text.wordy import wordy

pytest.importorskip("tokenizers")


def test_tokens_stand_over_their_mask_and_padding_on_the_right(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(wordy(tmp_path / "t"))
    x, cut = tokenizer.encode(["A patient", "the patient has pain and fever"], 6)
    assert x.dtype == np.int64 and x.shape == (2, 2, 6) and cut == 1
    assert x[0].tolist() == [[2, 5, 6, 3, 0, 0], [1, 1, 1, 1, 0, 0]]
    # What is cut leaves the special token at its end.
    assert x[1].tolist() == [[2, 4, 6, 7, 8, 3], [1] * 6]
    assert tokenizer.digest == digest_of(str(tmp_path / "t"))
    assert tokenizer.encode([], 6)[0].shape == (0, 2, 6)


@pytest.mark.data("minilm")
def test_minilm_s_tokens_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(BASES["minilm"].folder())
    texts = made_up("abc XYZ012'\n\t.,éß日🙂-_/\\", 400)
    mine, _ = open_tokenizer("minilm").encode(texts, 12)
    for row, text in zip(mine, texts, strict=True):
        found = theirs(text, truncation=True, max_length=12, padding="max_length")
        assert row.tolist() == [found["input_ids"], found["attention_mask"]], text


@pytest.mark.long
@pytest.mark.data("smollm2")
def test_smollm2_s_tokens_are_those_of_transformers_and_digits_stand_alone() -> None:
    transformers = pytest.importorskip("transformers")
    base = BASES["smollm2"]
    theirs = transformers.AutoTokenizer.from_pretrained(base.folder(), gguf_file=base.weights)
    tokenizer = open_tokenizer("smollm2")
    # transformers reads this file as any GPT-2's, which does not take digits apart.
    for text in made_up("abc XYZ'\n\t.,éß日🙂-_/\\", 400):
        expected = theirs(text)["input_ids"]
        x, _ = tokenizer.encode([text], 200)
        assert x[0, 0, : x[0, 1].sum()].tolist() == expected, text
    # As the model's own tokenizer does: no token of its vocabulary holds two digits.
    tokens = gguf.metadata(base.folder() / base.weights)["tokenizer.ggml.tokens"]
    digits = [
        at for at, token in enumerate(tokens) if any(c.isdigit() and c.isascii() for c in token)
    ]
    assert [tokens[at] for at in digits] == list("0123456789")
    x, _ = tokenizer.encode(["in 2024"], 16)
    assert [tokens[at] for at in x[0, 0, : x[0, 1].sum()]] == ["in", "Ġ", *"2024"]
    x, _ = tokenizer.encode(["<|im_start|>"], 4)
    assert x[0].tolist() == [[1, tokenizer.pad, tokenizer.pad, tokenizer.pad], [1, 0, 0, 0]]


def made_up(letters: str, count: int) -> list[str]:
    rng = random.Random(7)
    return ["".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(count)]


def test_the_padding_is_what_the_files_beside_say(tmp_path: Path) -> None:
    assert open_tokenizer(wordy(tmp_path / "a")).pad == 0
    assert open_tokenizer(wordy(tmp_path / "b", pad="[UNK]")).pad == 1
    assert open_tokenizer(wordy(tmp_path / "c", pad="", config={"pad_token_id": 3})).pad == 3
    for name, config in (("d", {}), ("e", {"pad_token_id": 999}), ("f", {"pad_token_id": True})):
        with pytest.raises(ValueError, match=r"must have a token for padding.*tokenizer_config"):
            open_tokenizer(wordy(tmp_path / name, pad="", config=config))
    folder = Path(wordy(tmp_path / "g", pad=""))
    told = {"pad_token": {"content": "[SEP]"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(told))
    assert open_tokenizer(str(folder)).pad == 3


def test_what_cannot_be_a_tokenizer_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.tokenizer: must be one of minilm, smollm2 or a"):
        open_tokenizer("minlm")
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file; name minilm, smollm2"):
        open_tokenizer(str(tmp_path / "none"))
    folder = Path(wordy(tmp_path / "t"))
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: must be JSON"):
        open_tokenizer(str(folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"no tokenizer can be made of it.*save it by transformers"
    ):
        open_tokenizer(str(folder))


def test_a_length_has_to_fit_the_model(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(wordy(tmp_path / "t"))
    with pytest.raises(ValueError, match=r"data\.length: must be at most 24, the longest.*got 25"):
        tokenizer.encode(["pain"], 25)
    with pytest.raises(ValueError, match=r"data\.length: must be more than the 2 special tokens"):
        tokenizer.encode(["pain"], 2)


def test_the_longest_text_is_found_under_each_family_s_own_name(tmp_path: Path) -> None:
    none = {"max_position_embeddings": None}
    told: dict[str, tuple[dict[str, object], int]] = {
        "gpt2": (none | {"n_positions": 12}, 12),
        # Its positions begin behind the padding's number.
        "roberta": (
            {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 14},
            12,
        ),
        "several": (none | {"text_config": {"max_position_embeddings": 12}}, 12),
        "nonsense": ({"max_position_embeddings": -3}, 0),
    }
    for name, (config, most) in told.items():
        assert open_tokenizer(wordy(tmp_path / name, config=config)).most == most, name


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Write the small tokenizer with something else in it, and return its folder."""
    file = Path(wordy(folder)) / "tokenizer.json"
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))
    return str(folder)


def test_a_tokenizer_of_another_vocabulary_than_the_base_s_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"from 0 to 9, as config\.json.*has 10,.*base's own"):
        open_tokenizer(wordy(tmp_path / "a", config={"vocab_size": 10}))
    beyond = changed(tmp_path / "b", lambda told: told["model"]["vocab"].update(pain=10**6))
    (tmp_path / "b" / "config.json").write_text('{"vocab_size": 100}')
    with pytest.raises(ValueError, match=r"has 1000000, 'pain'"):
        open_tokenizer(beyond)


def test_a_hostile_tokenizer_ends_in_a_message(tmp_path: Path) -> None:
    def grow(told: dict[str, Any]) -> None:
        one = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
        told["normalizer"] = {"type": "Sequence", "normalizers": [one] * 4}

    with pytest.raises(ValueError, match=r"at most 64 letters of one.*make 1,000,000,000,000"):
        open_tokenizer(changed(tmp_path / "bomb", grow))

    # Bytes make two letters of one that is not ASCII, and a table of its own what it likes.
    for kind, often in (("ByteLevel", 32), ("Precompiled", 2)):

        def chain(told: dict[str, Any], kind: str = kind, often: int = often) -> None:
            more = {"precompiled_charsmap": ""} if kind == "Precompiled" else {}
            told["normalizer"] = {
                "type": "Sequence", "normalizers": [{"type": kind} | more] * often
            }  # fmt: skip

        with pytest.raises(ValueError, match=r"at most 64 letters of one"):
            open_tokenizer(changed(tmp_path / kind, chain))

    def slow(told: dict[str, Any]) -> None:
        pattern = {"Regex": "(a+)+$"}
        told["pre_tokenizer"] = {
            "type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False
        }  # fmt: skip

    for name, change, text in (
        ("regex", slow, "a" * 40 + "!"),
        ("unknown", lambda told: told["model"].update(unk_token="none"), "zzz"),
    ):
        tokenizer = open_tokenizer(changed(tmp_path / name, change))
        with pytest.raises(ValueError, match=r"must make tokens of every text, and cannot"):
            tokenizer.encode([text], 8)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = wordy(tmp_path / "t")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"pip install 'fedlite\[lora\]'"):
        open_tokenizer(folder)


def test_a_tokenizer_that_was_changed_is_read_anew(tmp_path: Path) -> None:
    folder = wordy(tmp_path / "t")
    before = open_tokenizer(folder)
    wordy(tmp_path / "t", pad="[SEP]")
    path = Path(folder) / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    after = open_tokenizer(folder)
    assert before.digest != after.digest and after.pad == 3


def test_a_gguf_that_lies_about_its_lengths_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for count, rest in ((1, b""), (1, struct.pack("<Q", 1 << 60)), (1 << 60, b"\0" * 64)):
        path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, count) + rest)
        with pytest.raises(ValueError, match=r"ends before|unknown type"):
            gguf.metadata(path)
    path.write_bytes(struct.pack("<4sIQQ", b"GGML", 3, 0, 0))
    with pytest.raises(ValueError, match="must be a GGUF file of version 3"):
        gguf.metadata(path)


def test_what_else_stands_beside_changes_no_token_that_counts(tmp_path: Path) -> None:
    """So a base is known by its tokenizer.json, and tokenizer_config.json needs no digest.

    It is read for the token that fills up, which a mask hides; sides, lengths and whatever else
    transformers would take from it are not.
    """
    told = {"truncation_side": "left", "padding_side": "left", "model_max_length": 3}
    told |= {"do_lower_case": False, "pad_token": "[SEP]", "add_prefix_space": True}
    plain, odd = (Path(wordy(tmp_path / name)) for name in ("plain", "odd"))
    (odd / "tokenizer_config.json").write_text(json.dumps(told))
    texts = ["A patient", "the patient has pain and fever", "pain"]
    (x, cut), (y, also) = (open_tokenizer(str(f)).encode(texts, 6) for f in (plain, odd))
    assert cut == also and np.array_equal(x[:, 1], y[:, 1])
    assert np.array_equal(x[:, 0] * x[:, 1], y[:, 0] * y[:, 1])
    # Two paddings there were, so that the test has something to compare.
    assert not np.array_equal(x, y)
