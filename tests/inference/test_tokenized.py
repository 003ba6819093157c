"""A bundle of texts: the same ways and answers as PyTorch's, and nothing that is none is answered.

Covers fedlite/inference/portions.py.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from scipy.special import softmax
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.evaluation import Trained, open_model, read
from fedlite.identity import keys
from fedlite.inference import manifest
from fedlite.inference.bundle import Bundle, load
from fedlite.inference.release import write_bundle
from fedlite.inference.rule import Own
from fedlite.inference.serving import protocol
from tests.inference import textual
from tests.inference.serving.conftest import running

pytestmark = pytest.mark.long
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("peft")
pytest.importorskip("grpc_reflection")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run, its bundles `onnx` and `onnx-int8`, and other notes."""
    folder = tmp_path_factory.mktemp("texts")
    run = textual.run(folder)
    textual.notes(folder / "other.jsonl", seed=9, count=200)
    for target in ("onnx", "onnx-int8"):
        args = ["export", str(run), "--to", str(folder / target), "--target", target]
        result = CliRunner().invoke(app, args)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def bundle(made: Path) -> Bundle:
    return load(made / "onnx")


def notes(made: Path) -> list[str]:
    return [json.loads(line)["note"] for line in (made / "other.jsonl").open()]


def answers(made: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return by torch alone the branches' answers to the other notes, float64 [n, 2] each."""
    trained = open_model(made / "run")
    x = torch.from_numpy(read(trained, made / "other.jsonl").data.x)
    with torch.no_grad():
        shallow, deep = trained.model(trained.model.prepare(x))
    return shallow.double().numpy(), deep.double().numpy()


def test_every_text_goes_the_same_way_and_gets_the_same_answer(made: Path, bundle: Bundle) -> None:
    shallow, deep = answers(made)
    threshold = json.loads((made / "run" / "summary.json").read_text())["inference"]["threshold"]
    early = softmax(shallow, axis=1).max(axis=1) >= threshold
    shares = softmax(np.where(early[:, None], shallow, deep), axis=1)
    found = bundle.predict(notes(made))
    assert 20 < early.sum() < 180, "both ways are taken"
    np.testing.assert_array_equal(found.early, early)
    np.testing.assert_allclose(found.shares, shares, atol=1e-5)
    for at, text in enumerate(notes(made)[:40]):
        assert bundle.one(text) == (found.labels[at], found.early[at])


def test_in_integers_answers_are_much_the_same_and_no_text_depends_on_another(made: Path) -> None:
    small, given = load(made / "onnx-int8"), notes(made)
    found, order = small.predict(given), np.random.default_rng(0).permutation(len(given))
    _, deep = answers(made)
    wanted = softmax(deep, axis=1)
    late = small.answer(small.prepared(given), deep=True)
    assert np.quantile(np.abs(late.shares - wanted), 0.95) < 0.05
    again = small.predict([given[at] for at in order])
    # Of another length are the fillings alone: sums are taken in another order.
    np.testing.assert_allclose(again.shares, found.shares[order], atol=5e-3)
    assert "8-bit integers" in small.promise and small.told["stem"] == "integers"


def test_a_file_of_texts_is_answered_without_torch_or_transformers(
    made: Path, bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'peft', 'onnx'):\n"
        "    sys.modules[name] = None\nfrom fedlite.cli import main\nmain()\n"
    )
    args = ["predict", str(made / "onnx"), str(made / "other.jsonl"), "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(out.open()))
    wanted = bundle.predict(notes(made))
    assert [row["label"] for row in rows] == list(wanted.labels)
    assert [row["branch"] == "shallow" for row in rows] == wanted.early.tolist()


def test_the_card_s_own_code_runs_and_says_what_it_was(made: Path) -> None:
    card = (made / "onnx-int8" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    text = f"x = ['the film was great']\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=made / "onnx-int8", capture_output=True, text=True
    )
    assert done.returncode == 0 and "good" in done.stdout, done.stderr
    for words in ("stem and tail", "sha256 of its weights", "12 at most", "rounds | 6"):
        assert words in card, words
    for file in (made / "onnx-int8").iterdir():
        assert str(made).encode() not in file.read_bytes(), file.name


@pytest.mark.parametrize("target", [None, "onnx"])
def test_without_a_target_it_is_adapters_and_with_one_a_bundle(
    made: Path, tmp_path: Path, target: str | None
) -> None:
    more = ["--target", target] if target else []
    args = ["export", str(made / "run"), "--to", str(tmp_path / "out"), *more]
    result = CliRunner().invoke(app, [*args, "--merged"])
    if target:
        assert result.exit_code and "--merged: must be left out" in result.output
    else:
        assert (tmp_path / "out" / "adapter_config.json").is_file()
        assert (tmp_path / "out" / "merged" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ("one text", "must be a list of texts, one at least, got one text"),
        ([], "must be a list of texts, one at least, got none"),
        (["good", ""], "row 1.*a text must not be empty"),
        (["\u200b \n"], "row 0.*a text must not be empty"),
        (["good", 3], "must be texts, and row 1 is int"),
        (["a" * 1_000_001], "row 0.*at most 1,000,000 characters"),
        (["half \ud800"], "row 0.*a text must be Unicode"),
        (np.zeros((1, 2, 12), np.int64), "must be texts, and row 0 is ndarray"),
    ],
)
def test_what_is_no_text_is_refused(bundle: Bundle, x: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        bundle.predict(x)
    assert str(raised.value).count("\n") == 0


def test_a_long_text_is_cut_and_unknown_words_are_answered(made: Path, bundle: Bundle) -> None:
    long = "great film " * 20_000
    assert (
        bundle.predict([long]).shares.tolist()
        == bundle.predict(["great film " * 8]).shares.tolist()
    )
    found = bundle.predict(["жжж 漢字 🜁"])
    np.testing.assert_allclose(found.shares, bundle.predict(["xyz qrs tuv"]).shares, atol=1e-6)
    inputs = bundle.prepared(["жжж"])
    assert inputs[0, 0, :3].tolist() == [2, 1, 3] and inputs[0, 1].sum() == 3


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"words": "good"}\n', "data.text must be in the header"),
        ("a.jsonl", '{"note": ""}\n', "a text must not be empty"),
        ("a.csv", "note\n", "must hold at least one text"),
        ("a.npz", "", "must be a table with the texts in the column 'note'"),
        ("a.jsonl", "{", "every line must be JSON"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(
    made: Path, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    result = CliRunner().invoke(app, ["predict", str(made / "onnx"), str(tmp_path / name)])
    assert result.exit_code == 2 and said in result.output.replace("\n", " "), result.output


def test_the_column_may_have_another_name(made: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("said\ngreat film\n")
    args = ["predict", str(made / "onnx"), str(tmp_path / "a.csv"), "--text", "said", "--json"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output


def spoilt(made: Path, to: Path, **files: bytes | None) -> Path:
    """Return a bundle with these files in the place of its own, signed anew by a stranger."""
    whole = {
        path.name: path.read_bytes()
        for path in (made / "onnx").iterdir()
        if path.name != manifest.MANIFEST
    }
    for name, content in files.items():
        name = name.replace("_", ".")
        if content is None:
            del whole[name]
        else:
            whole[name] = content
    manifest.write(to, whole, keys.load_or_generate(to.parent / "stranger.pem"))
    return to


def test_another_tokenizer_is_refused(made: Path, tmp_path: Path) -> None:
    kept = (made / "onnx" / "tokenizer.json").read_bytes()
    other = kept.replace(b'"great":13', b'"great":12').replace(b'"bad":12', b'"bad":13')
    other = re.sub(rb'"great": ?(\d+)', b'"great": 5', kept) if other == kept else other
    assert other != kept
    copy = textual.copied(made / "onnx", tmp_path / "copy")
    (copy / "tokenizer.json").write_bytes(other)
    with pytest.raises(ValueError, match=r"tokenizer\.json: is not what was signed"):
        load(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file"):
        load(copy)
    with pytest.raises(ValueError, match="must be the one that the model was trained with"):
        load(spoilt(made, tmp_path / "signed", tokenizer_json=other))
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file; export the run again"):
        load(spoilt(made, tmp_path / "without", tokenizer_json=None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threshold": float("nan")}, "threshold must be null or from 0 to 1"),
        ({"shape": [2, 13]}, r"shape must be \[2, 12\]"),
        ({"preprocessing": {"kind": "text"}}, "must say length, pad, redact and digest"),
        ({"tolerance": 0.2}, "tolerance must be at most 0.001 for graphs of float32"),
    ],
)
def test_a_description_that_export_does_not_write_is_refused(
    made: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    told = json.loads((made / "onnx" / "bundle.json").read_text()) | change
    forged = spoilt(made, tmp_path / "forged", bundle_json=json.dumps(told).encode())
    with pytest.raises(ValueError, match=said):
        load(forged)


def test_a_tokenizer_that_makes_other_tokens_here_is_found(made: Path, tmp_path: Path) -> None:
    import hashlib

    told = json.loads((made / "onnx" / "bundle.json").read_text())
    kept = json.loads((made / "onnx" / "tokenizer.json").read_text())
    kept["normalizer"] = None
    kept["model"]["vocab"] = {
        word: {4: 5, 5: 4}.get(at, at) for word, at in kept["model"]["vocab"].items()
    }
    other = json.dumps(kept).encode()
    told["preprocessing"]["digest"] = hashlib.sha256(other).hexdigest()
    forged = spoilt(
        made, tmp_path / "forged", bundle_json=json.dumps(told).encode(), tokenizer_json=other
    )
    with pytest.raises(ValueError, match="its stored texts become other tokens"):
        load(forged)


def asked(texts: list[str], *, raw: bool = True, **told: Any) -> Any:
    request = protocol.message("inference.ModelInferRequest")(model_name="notes")
    request.inputs.add(name="x", **({"datatype": "BYTES", "shape": [len(texts)]} | told))
    parts = [text.encode("utf-8", "surrogateescape") for text in texts]
    if raw:
        joined = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
        request.raw_input_contents.append(joined)
    else:
        request.inputs[0].contents.bytes_contents.extend(parts)
    return request


def test_a_server_answers_texts_as_predict_does(made: Path, bundle: Bundle) -> None:
    texts = notes(made)
    right = bundle.predict(texts)
    with running(bundle) as live:
        told = live.ask("ModelMetadata", name="notes").inputs[0]
        assert (told.datatype, list(told.shape)) == ("BYTES", [-1])
        for raw in (True, False):
            found = live.ask("ModelInfer", asked(texts, raw=raw))
            by = {one.name: at for at, one in enumerate(found.outputs)}
            if raw:
                contents = found.raw_output_contents
                early = np.frombuffer(contents[by["early"]], "?")
                shares = np.frombuffer(contents[by["probabilities"]], "<f8").reshape(-1, 2)
            else:
                contents = [one.contents for one in found.outputs]
                early = np.array(contents[by["early"]].bool_contents)
                shares = np.reshape(contents[by["probabilities"]].fp64_contents, (-1, 2))
                labels = contents[by["label"]].bytes_contents
                assert tuple(one.decode() for one in labels) == right.labels
            assert np.array_equal(early, right.early) and 0 < early.sum() < len(texts)
            assert np.allclose(shares, right.shares, atol=1e-6)
        (long,) = live.ask("ModelInfer", asked(["great " * 500])).outputs[0:1]
        assert long.shape == [1] and bundle.predict(["great " * 500]).labels == ("good",)


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (asked(["a"], datatype="FP32"), "must be BYTES"),
        (asked(["a"], shape=[1, 1]), "must be BYTES"),
        (asked(["a"], shape=[2]), "must have 2 texts"),
        (asked(["a", "b"], shape=[1]), "must be 1 texts"),
        (asked(["a", "b"], shape=[1], raw=False), "must have 1 texts"),
        (asked([], shape=[0]), "n from 1"),
        (asked([""]), "must not be empty"),
        (asked(["\udcff"]), "must be texts in UTF-8"),
        (asked(["a" * 16_385]), "at most 16384 bytes"),
        (asked(["a" * 16_000] * 263), "bytes of texts together"),
        (asked(["a"] * 5000), "n from 1 to 4096"),
        (asked(["a"] * 5000, raw=False), "more fields"),
    ],
)
def test_a_server_refuses_what_is_no_text(bundle: Bundle, request_: Any, rule: str) -> None:
    with running(bundle) as live, pytest.raises(grpc.RpcError) as no:
        live.ask("ModelInfer", request_)
    assert no.value.code().name == "INVALID_ARGUMENT" and rule in no.value.details()


def private(made: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Return the run's model as that of a run whose records are private."""
    from fedlite.inference import graphs

    files = [(made / "onnx" / name).read_bytes() for name in ("stem.onnx", "tail.onnx")]
    monkeypatch.setattr(graphs, "traced", lambda _: tuple(files))
    trained = open_model(made / "run")
    # Such a run has calibrated nothing.
    shutil.copytree(made / "run", to, ignore=shutil.ignore_patterns("summary.json"))
    scenario = trained.scenario
    hidden = replace(scenario, privacy=replace(scenario.privacy, unit="record"))
    return replace(trained, directory=to, scenario=hidden)


def test_of_private_records_integers_look_at_none(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedlite import plan as plans

    trained = private(made, tmp_path / "run", monkeypatch)

    def refuse(*_: object) -> None:
        raise AssertionError("no record may be read")

    monkeypatch.setattr(plans, "simulated", refuse)
    with pytest.raises(ValueError, match="--calibrate-with for this run"):
        write_bundle(trained, tmp_path / "no", target="onnx-int8", max_loss=0.01)
    write_bundle(trained, tmp_path / "out", target="onnx-int8")
    found = load(tmp_path / "out")
    assert found.threshold is None and found.told["quantized"] is None
    assert "no record was looked at" in found.promise
    assert not found.predict(notes(made)).early.any()


def test_the_place_calibrates_integers_by_records_of_its_own(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = private(made, tmp_path / "run", monkeypatch)
    # As a run on texts of the catalog, which names no column for the label.
    text = (made / "other.jsonl").read_text().replace('"seen"', '"label"')
    (tmp_path / "ours.jsonl").write_text(text)
    own = Own(tmp_path / "ours.jsonl", alpha=0.1)
    write_bundle(replace(trained, target=""), tmp_path / "out", target="onnx-int8", own=own)
    found = load(tmp_path / "out")
    assert found.threshold is not None and found.told["quantized"]["records"] == 200


def test_what_no_bundle_can_hold_is_told(made: Path, tmp_path: Path) -> None:
    trained = open_model(made / "run")
    assert trained.texts is not None
    with pytest.raises(ValueError, match="must be a run of the model lora on texts"):
        write_bundle(replace(trained, texts=None), tmp_path / "out")
    own = replace(trained.texts, redactor="mine.py:redact")
    with pytest.raises(ValueError, match=r"data\.redactor: must be left out"):
        write_bundle(replace(trained, texts=own), tmp_path / "out")
    with pytest.raises(ValueError, match="--scale-by: must be left out"):
        write_bundle(trained, tmp_path / "out", scale_by=made / "other.jsonl")
    assert not (tmp_path / "out").exists()


def test_a_smaller_one_loses_no_more_than_was_allowed(made: Path, tmp_path: Path) -> None:
    args = ["export", str(made / "run"), "--to", str(tmp_path / "small"), "--target", "onnx-int8"]
    result = CliRunner().invoke(app, [*args, "--max-loss", "0.3"])
    assert result.exit_code == 0, result.output
    small, whole = load(tmp_path / "small"), load(made / "onnx-int8")
    assert small.told["smaller"]["units_less"] > 0
    assert small.told["smaller"]["loss"] <= 0.3 and "a smaller one of" in small.promise
    size = [(one.directory / "stem.onnx").stat().st_size for one in (small, whole)]
    assert size[0] != size[1] and len(small.predict(notes(made))) == 200
