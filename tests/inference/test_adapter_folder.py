"""A run's adapters as others' tools load them. Covers fedlite/inference/card.py.

Covers fedlite/commands/export.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import fedlite
from fedlite.commands.main import app
from fedlite.evaluation import open_model
from fedlite.inference.adapter_folder import write_adapters
from tests.models.pretrained.conftest import WORDS, save, texts

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

CODE = f"""
import numpy as np
def load():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, {WORDS}, (60, 12))
    return np.stack([ids, np.ones_like(ids)], 1), ids[:, 0] % 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def run_of(folder: Path, method: str, kind: str) -> Path:
    """Return the directory of a run of two rounds that trains a small transformer's adapters."""
    out = folder / f"{method}-{kind}"
    if out.exists():
        return out
    base = save(kind, folder / kind)
    (folder / "own.py").write_text(CODE)
    scenario = {
        "federation": {"rounds": 2, "sites": 2},
        "data": {"name": f"{folder}/own.py:load", "labels": "bad, good"},
        "model": {
            "name": "lora",
            "options": {"base": str(base), "method": method, "rank": 2},
        },
        "training": {"steps": 3, "optimizer": "adam", "learning_rate": 0.05},
    }
    fedlite.simulate(scenario, out=out, engine="serial")
    return out


@pytest.mark.long
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("method", ["both", "frozen-a", "sb"])
def test_peft_answers_as_the_run_s_model_does(folder: Path, method: str, kind: str) -> None:
    run = run_of(folder, method, kind)
    out = folder / f"out-{method}-{kind}"
    trained = open_model(run)
    write_adapters(trained, out, merged=True)
    plain = transformers.AutoModel.from_pretrained(folder / kind)
    loaded = peft.PeftModel.from_pretrained(plain, out).eval()
    merged = transformers.AutoModel.from_pretrained(out / "merged").eval()
    ids, mask = texts(5).unbind(1)
    mask[:] = 1
    with torch.no_grad():
        wanted = trained.model.features(torch.stack([ids, mask], 1))
        without = transformers.AutoModel.from_pretrained(folder / kind).eval()
        for network, same in ((loaded, True), (merged, True), (without, False)):
            states = network(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            mean = states.hidden_states[-1].mean(1)
            found = torch.nn.functional.layer_norm(mean, mean.shape[1:])
            close = torch.allclose(found, wanted[:, -found.shape[1] :], atol=1e-4)
            assert close is same


@pytest.mark.long
@pytest.mark.parametrize("method", ["both", "heads"])
def test_the_card_s_own_code_gives_the_model_s_answers(
    folder: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(folder, method, "bert")
    out = folder / f"card-{method}"
    result = CliRunner().invoke(app, ["export", str(run), "--to", str(out), "--json"])
    assert result.exit_code == 0, result.output
    files = {Path(one["path"]).name: one["bytes"] for one in json.loads(result.stdout)["files"]}
    assert ("adapter_model.safetensors" in files) is (method == "both")
    text = (out / "README.md").read_text()
    for needed in ("bad, good", "sha256", "No privacy is claimed", "rounds | 2", "sites |"):
        assert needed in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    ids, mask = texts(4).unbind(1)

    # The small transformer has no tokenizer.
    line = next(line for line in code.splitlines() if line.startswith("tokens ="))
    code = code.replace(line, "")
    # No folder of this machine is told: it may name a person.
    for file in out.iterdir():
        assert str(folder).encode() not in file.read_bytes()
    assert 'base = "bert"' in code
    code = code.replace('base = "bert"', f"base = {str(folder / 'bert')!r}")
    monkeypatch.chdir(out)
    found: dict[str, Any] = {"tokens": {"input_ids": ids, "attention_mask": mask}}
    exec(code, found)
    trained = open_model(run)
    with torch.no_grad():
        inputs = trained.model.prepare(torch.stack([ids, mask], 1))
        wanted = trained.model(inputs)[-1].numpy()
    assert np.allclose(found["answer"].numpy()[:, 0], wanted[:, 1], atol=1e-4)


@pytest.mark.long
def test_what_cannot_be_written_is_told(folder: Path, tmp_path: Path) -> None:
    run = run_of(folder, "both", "bert")
    (tmp_path / "there.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be empty or not be there yet"):
        write_adapters(open_model(run), tmp_path)
    plain = tmp_path / "plain"
    fedlite.simulate("quickstart", set={"federation.rounds": 1}, out=plain, engine="serial")
    with pytest.raises(ValueError, match=r"must be a run of the model lora, got 'cosine'"):
        write_adapters(open_model(plain), tmp_path / "new")
