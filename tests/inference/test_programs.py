"""A run as ExecuTorch programs: the same ways and answers, and none is opened of a stranger.

What needs the extra is skipped without it: `make setup` does not install it.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn
from typer.testing import CliRunner

import fedlite
from clients.runtime import released
from fedlite.commands.main import app
from fedlite.evaluation import open_model
from fedlite.inference import bundle as bundles, graphs, programs
from fedlite.inference.bundle import load
from fedlite.inference.release import write_bundle
from fedlite.models import Branched, build
from tests.inference.forged import described, signed_anew
from tests.inference.releasing import Place
from tests.inference.test_bundle import X, expected

pytestmark = pytest.mark.long

needed = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None,
    reason="ExecuTorch is not installed: pip install 'fedlite[executorch]'",
)


def call(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def small(run: Path) -> Path:
    to = run.parent / "programs"
    write_bundle(open_model(run), to, target="executorch")
    return to


@pytest.fixture
def forged(made: Path, tmp_path: Path) -> tuple[Path, str]:
    """Return a signed bundle that says it is of programs, which are none, and who signed it."""
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    for name in ("stem", "tail"):
        (copy / f"{name}.onnx").rename(copy / f"{name}.pte")
    told = described(made, graphs="executorch")
    return tmp_path / "forged", signed_anew(copy, tmp_path / "forged", bundle_json=told)


@needed
def test_every_input_goes_the_same_way_and_gets_the_same_answer(run: Path, small: Path) -> None:
    key = json.loads((small / "manifest.json").read_text())["key"]
    found = load(small, signed_by=key)
    assert found.of_programs and found.told["versions"]["executorch"]
    early, shares = expected(run)
    answers = found.predict(X)
    assert 30 < early.sum() < len(X) - 30, "both ways are taken"
    np.testing.assert_array_equal(answers.early, early)
    np.testing.assert_array_equal(answers.classes, shares.argmax(axis=1))
    np.testing.assert_allclose(answers.shares, shares, atol=1e-5)
    assert [found.one(x) for x in X[:9]] == list(
        zip(answers.labels[:9], answers.early[:9].tolist(), strict=True)
    )
    names = {"stem.pte", "tail.pte"}
    assert names <= set(json.loads((small / "manifest.json").read_text())["files"])
    here = (str(Path(graphs.__file__).parents[1]), str(small.parent), torch.__path__[0], ".py")
    for name in names:
        content = (small / name).read_bytes()
        assert not [told for told in here if told.encode() in content]
    # The card's own code, with the key in the place of KEY.
    code = re.findall(r"```python\n(.*?)```", (small / "README.md").read_text(), re.S)[0]
    given = {"KEY": key, "x": X[:5]}
    exec(code.replace('"."', repr(str(small))), given)
    assert given["answers"].labels == answers.labels[:5]


@needed
def test_the_command_answers_a_file_and_tells_nothing_else(
    small: Path, made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", x=X[:30])
    asked = ("predict", small, tmp_path / "x.npz")
    refused = call(*asked)
    key = json.loads((small / "manifest.json").read_text())["key"]
    assert refused.exit_code and f"this one is signed by {key}" in " ".join(refused.output.split())
    done = call(*asked, "--signed-by", key, "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [row["label"] for row in rows] == list(fedlite.load_bundle(made).predict(X[:30]).labels)
    assert capfd.readouterr().out == "", "native code has written where answers go"
    served = call("serve", small, "--signed-by", key)
    assert served.exit_code and "must be of ONNX graphs to be served" in served.output


@needed
@pytest.mark.parametrize("name", ["stem.pte", "tail.pte"])
def test_one_that_answers_otherwise_than_was_stored_is_refused(
    run: Path, small: Path, tmp_path: Path, name: str
) -> None:
    trained = open_model(run)
    assert isinstance(trained.model, Branched)
    with torch.no_grad():
        part = trained.model.exit if name == "stem.pte" else trained.model.tail
        list(part.parameters())[-1][0] += 0.05
    stem, tail = programs.lowered(trained.model, "cnn")
    changed = {"stem_pte": stem} if name == "stem.pte" else {"tail_pte": tail}
    key = signed_anew(small, tmp_path / "other", **changed)
    branch = "shallow" if name == "stem.pte" else "deep"
    with pytest.raises(ValueError, match=f"the {branch} answers to its stored inputs are others"):
        load(tmp_path / "other", signed_by=key)


@needed
@pytest.mark.parametrize(
    ("name", "shape"),
    [("linear", (13,)), ("mlp", (6, 5)), ("cnn1d", (3, 40)), ("cosine", (1, 8, 8))],
)
def test_other_models_of_the_house_answer_as_in_torch(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, shape, 4, seed=1).eval()
    assert isinstance(model, Branched)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x = model.made_up(7)
        shallow, deep = (one.numpy() for one in model(model.prepare(x)))
    stem, tail = map(programs.Program, programs.lowered(model, name))
    hidden, early = stem.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(early, shallow, atol=2e-5)
    np.testing.assert_allclose(tail.run(None, {"hidden": hidden})[0], deep, atol=2e-5)


@needed
def test_texts_of_any_length_are_answered_as_in_torch(tmp_path: Path) -> None:
    from tests.inference import textual

    folder = textual.run(tmp_path, model={"options": _ONE_LAYER | {"base": str(tmp_path / "base")}})
    trained = open_model(folder)
    write_bundle(trained, tmp_path / "bundle", target="executorch")
    key = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["key"]
    found = load(tmp_path / "bundle", signed_by=key)
    texts = [json.loads(line)["note"] for line in (tmp_path / "notes.jsonl").open()][:40]
    tokens = found.prepared(texts)
    with torch.no_grad():
        shallow, deep = (one.double().numpy() for one in trained.model(torch.tensor(tokens)))
    answers = found.predict(texts)
    wanted = softmax(np.where(answers.early[:, None], shallow, deep), axis=1)
    assert len({len(text.split()) for text in texts}) > 3
    np.testing.assert_allclose(answers.shares, wanted, atol=1e-4)


_ONE_LAYER = {"rank": 4, "exit": 1, "read": [2], "layers": [2]}


class Odd(nn.Module):
    """A layer that no export can follow: what it does hangs on the values."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


@needed
def test_a_model_that_cannot_be_lowered_is_refused_by_name() -> None:
    tail = nn.Sequential(Odd(), nn.Linear(4, 3))
    model = Branched(nn.Linear(4, 4), nn.Linear(4, 3), tail, shape=(4,), classes=3)
    with pytest.raises(ValueError, match=r"ExecuTorch can lower, and 'odd\.py:make' is not"):
        programs.lowered(model, "odd.py:make")


def test_without_the_extra_both_ends_say_how_to_get_it(
    run: Path, forged: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        programs.importlib.util, "find_spec", lambda n: None if n == "executorch" else there(n)
    )
    rule = "executorch: must be installed for bundles of programs, and is not; pip install"
    written = call("export", run, "--to", tmp_path / "b", "--target", "executorch")
    assert written.exit_code and rule in " ".join(written.output.split())
    assert not (tmp_path / "b").exists()
    folder, key = forged
    with pytest.raises(ValueError, match=re.escape(rule)):
        load(folder, signed_by=key)


def test_no_program_is_opened_before_its_signer_is_named(
    made: Path, forged: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened:
        def __init__(self, content: bytes) -> None:
            pytest.fail("a program was opened")

    folder, _ = forged
    monkeypatch.setattr(bundles, "Program", Opened)
    for named in (None, "", "00" * 32):
        with pytest.raises(ValueError, match="signed by"):
            load(folder, signed_by=named)
    # Whatever one of graphs says of itself, no program is in it.
    other = signed_anew(made, tmp_path / "says", bundle_json=described(made, graphs="executorch"))
    with pytest.raises(ValueError, match="must hold what fedlite export writes"):
        load(tmp_path / "says", signed_by=other)


def test_programs_are_neither_released_nor_put_in_use_at_a_site(
    forged: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = forged
    place = Place(tmp_path / "place")
    from server.coordinator.released import release

    with pytest.raises(ValueError, match="must be of ONNX graphs to be released"):
        release(place.coordinator, folder)
    # Whoever has the coordinator's key can announce what he likes.
    place.allow()
    made = place.announce(folder, 7)
    place.run()
    seen = released.review(place.home, made.sha256)
    assert any("must be of ONNX graphs" in why for why in seen.refused)
    with pytest.raises(ValueError, match="must be of ONNX graphs"):
        released.approve(place.home, seen, "somebody")


def test_what_it_takes_is_not_told_for_another_machine(run: Path, tmp_path: Path) -> None:
    done = call("export", run, "--to", tmp_path / "b", "--target", "executorch", "--energy")
    assert done.exit_code and "--energy: must be left out with" in " ".join(done.output.split())
