"""A run on texts is judged and used on files of texts, read as it read its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedlite.evaluation import Trained, evaluate, held_out, open_model, predict, read
from fedlite.evaluation.corruptions import chosen
from fedlite.scenario import from_dict
from simulations.run import simulate
from tests.data.text.wordy import wordy

pytest.importorskip("tokenizers")

MODEL = '''
import torch
from torch import nn


class Bag(nn.Module):
    """The mean of what each word weighs."""

    def __init__(self, classes):
        super().__init__()
        self.weights = nn.Embedding(32, classes)

    def forward(self, x):
        mask = x[:, 1].float()
        found = self.weights(x[:, 0].long()) * mask[..., None]
        return found.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class Unigram(nn.Module):
    """How likely each word is, whatever stands before it."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(32))

    def forward(self, x):
        mask = x[:, 1].float()
        losses = -self.scores.log_softmax(0)[x[:, 0].long()] * mask
        return losses.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def bag(shape, classes):
    return Bag(classes)


def unigram(shape, classes):
    return Unigram()
'''
WORDS = "the a patient has pain fever cough".split()


def run(folder: Path, task: str) -> Trained:
    rng = np.random.default_rng(5)
    lines = ["site,note,seen"]
    for number in range(160):
        seen = ("bad", "good")[number % 2]
        words = [*rng.choice(WORDS, 4), ("awful", "great")[number % 2]]
        lines.append(f"h{number % 3},{' '.join(rng.permutation(words))},{seen}")
    (folder / "notes.csv").write_text("\n".join(lines) + "\n")
    (folder / "bag.py").write_text(MODEL)
    lm = task == "causal-lm"
    tables = {
        "federation": {"name": task, "rounds": 4, "sites": 3, "weighting": "records"},
        "data": {
            "name": "csv",
            "path": str(folder / "notes.csv"),
            "text": "note",
            "tokenizer": wordy(folder / "tokenizer"),
            "length": 8,
            "partition": "natural",
        }
        | ({} if lm else {"target": "seen"}),
        "task": {"name": task},
        "model": {"name": f"{folder}/bag.py:{'unigram' if lm else 'bag'}"},
        "training": {"epochs": 10, "learning_rate": 2.0},
        "uplink": {"compressor": "dense"},
        "downlink": {"compressor": "dense"},
    }
    simulate(from_dict(tables), folder / "run", engine="serial", quiet=True)
    return open_model(folder / "run")


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("notes"), "classification")


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("language"), "causal-lm")


@pytest.mark.long
def test_other_texts_are_answered_in_their_order_from_any_file(
    notes: Trained, tmp_path: Path
) -> None:
    texts, seen = ["a great patient", "awful, awful pain", "GREAT fever"], ["good", "bad", "good"]
    csv, jsonl = tmp_path / "other.csv", tmp_path / "other.jsonl"
    rows = [
        f'"{text}",{label},{at % 2}'
        for at, (text, label) in enumerate(zip(texts, seen, strict=True))
    ]
    csv.write_text("\n".join(["note,seen,ward", *rows]) + "\n")
    jsonl.write_text("".join(json.dumps({"note": text}) + "\n" for text in texts))
    assert predict(notes, read(notes, csv, answered=False)).labels == tuple(seen)
    assert predict(notes, read(notes, jsonl, answered=False)).labels == tuple(seen)
    csv.write_text(csv.read_text().replace("note,seen", "text,verdict"))
    renamed = read(notes, csv, text="text", target="verdict")
    assert evaluate(notes, renamed).told["scores"]["deep"]["accuracy"] == 1.0
    csv.write_text(csv.read_text().replace("text,verdict", "note,seen"))
    judged = evaluate(notes, read(notes, csv, columns=("ward",)), group=("ward",)).told
    assert judged["scores"]["deep"]["accuracy"] == 1.0 and set(judged["groups"]) == {"ward"}
    assert evaluate(notes, held_out(notes)).told["scores"]["deep"]["accuracy"] > 0.95


@pytest.mark.long
def test_a_language_model_is_judged_by_its_perplexity(language: Trained) -> None:
    """The best unigram model's is the exponential of the words' entropy: seven of equal share."""
    found = evaluate(language, held_out(language)).told
    scores = found["scores"]["deep"]
    assert scores["perplexity"] == pytest.approx(np.exp(scores["nll"]))
    # Of 7 tokens a text 2 are special, 4 are of 7 words alike, 1 of 2 words.
    share = {"ends": 1 / 7, "word": 4 / 49, "judged": 1 / 14}
    counts = {"ends": 2, "word": 7, "judged": 2}
    entropy = -sum(counts[k] * share[k] * np.log(share[k]) for k in share)
    assert scores["nll"] == pytest.approx(entropy, rel=0.05)
    values = predict(language, held_out(language)).values
    assert values is not None and values.mean() == pytest.approx(scores["nll"])
    told = json.loads((language.directory / "summary.json").read_text())
    assert told["scores"]["perplexity"]["deep"] == pytest.approx(scores["perplexity"], rel=1e-6)


def test_another_tokenizer_of_that_name_is_refused(notes: Trained) -> None:
    file = Path(notes.scenario.data.tokenizer) / "tokenizer.json"
    before = file.read_text()
    try:
        file.write_text(before + " ")
        with pytest.raises(
            ValueError, match=r"tokenizer must be the one that the model was trained"
        ):
            open_model(notes.directory)
    finally:
        file.write_text(before)


def test_model_json_names_no_folder_of_a_person(notes: Trained) -> None:
    text = (notes.directory / "model.json").read_text()
    assert json.loads(text)["text"]["tokenizer"] == "tokenizer"
    assert str(notes.directory.parent) not in text


def test_texts_have_no_corruptions(notes: Trained) -> None:
    with pytest.raises(ValueError, match=r"--corrupt: is for tables and pictures"):
        chosen("all", tuple(notes.model.shape), texts=notes.texts is not None)
