"""What a stranger has changed, signed or left out of a bundle is refused before it answers.

Covers fedlite/inference/bundle.py, fedlite/inference/manifest.py.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.evaluation import open_model
from fedlite.inference import manifest
from fedlite.inference.bundle import Bundle, load
from fedlite.inference.release import write_bundle
from fedlite.models import Branched
from tests.inference.forged import described, edit, signed_anew

X = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda told: edit(told, signature="00" * 64), "its signature is not that of its key"),
        (lambda told: edit(told, key="00" * 32), "its signature is not that of its key"),
        (lambda told: edit(told, files=told["files"] | {"x": "y"}), "its signature is not that"),
        (lambda told: edit(told, files={"../x": "y"}), "must name format, files, key and"),
        (lambda told: edit(told, format="other-2"), "must be of the format fedlite-bundle-1"),
        (lambda told: edit(told, more=1), "must name format, files, key and signature"),
        (lambda told: b"[]", "must name format, files, key and signature"),
        (lambda told: b'{"format"', "not JSON"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(
    made: Path, tmp_path: Path, change: Callable[[dict[str, Any]], bytes], rule: str
) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    path = copy / "manifest.json"
    path.write_bytes(change(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=rule):
        load(copy)


@pytest.mark.parametrize(
    "other",
    [
        lambda text: text + b"\n",
        lambda text: json.dumps(json.loads(text)).encode(),
        lambda text: text.replace(b'"signature": "', b'"signature": "00", "signature": "'),
        lambda text: text.replace(
            json.loads(text)["signature"].encode(), json.loads(text)["signature"].upper().encode()
        ),
    ],
)
def test_a_bundle_has_one_manifest_and_so_one_sha256(
    made: Path, bundle: Bundle, tmp_path: Path, other: Callable[[bytes], bytes]
) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    path = copy / "manifest.json"
    path.write_bytes(other(path.read_bytes()))
    with pytest.raises(ValueError, match="must be written as fedlite export writes it"):
        load(copy, signed_by=bundle.signed_by)


def test_another_signer_is_refused_where_the_right_one_is_known(
    made: Path, bundle: Bundle, tmp_path: Path
) -> None:
    other = signed_anew(made, tmp_path / "other")
    assert load(tmp_path / "other").signed_by == other != bundle.signed_by
    assert load(made, signed_by=bundle.signed_by.upper()).signed_by == bundle.signed_by
    with pytest.raises(ValueError, match=f"must be signed by {bundle.signed_by}"):
        load(tmp_path / "other", signed_by=bundle.signed_by)


def test_a_bundle_that_answers_otherwise_than_where_it_was_made_is_refused(
    made: Path, tmp_path: Path
) -> None:
    with np.load(made / "trials.npz") as stored:
        trials = dict(stored)
    assert trials["early"].any() and not trials["early"].all()
    for name, rule in (("deep", "the deep answers"), ("early", "go other ways")):
        changed = trials | {name: ~trials[name] if name == "early" else trials[name] + 0.1}
        content = io.BytesIO()
        np.savez(content, **changed)
        signed_anew(made, tmp_path / name, trials_npz=content.getvalue())
        with pytest.raises(ValueError, match=rule):
            load(tmp_path / name)
    told = json.loads((made / "bundle.json").read_text()) | {"router": "margin"}
    signed_anew(made, tmp_path / "router", bundle_json=json.dumps(told).encode())
    with pytest.raises(ValueError, match=r"go other ways|its one graph"):
        load(tmp_path / "router")


def test_a_router_in_a_bundle_is_never_run_as_code(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "evil.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n\ndef score(inputs, shares): ...\n")
    told = json.loads((made / "bundle.json").read_text()) | {"router": f"{file}:score"}
    signed_anew(made, tmp_path / "other", bundle_json=json.dumps(told).encode())
    with pytest.raises(ValueError, match="nothing in a bundle is run as code"):
        load(tmp_path / "other")
    assert not (tmp_path / "ran").exists()


def test_a_key_that_was_not_set_is_no_key(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be signed by a key, and none is named"):
        load(made, signed_by="")
    np.savez(tmp_path / "x.npz", x=X[:2])
    asked = ["predict", str(made), str(tmp_path / "x.npz"), "--signed-by", ""]
    assert CliRunner().invoke(app, asked).exit_code


def test_a_graph_whose_values_are_in_a_file_that_nobody_signed_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    tail = onnx.load(made / "tail.onnx")
    onnx.external_data_helper.convert_model_to_external_data(
        tail, location="values", size_threshold=0
    )
    onnx.save(tail, tmp_path / "tail.onnx")
    content = (tmp_path / "tail.onnx").read_bytes()
    # onnxruntime itself takes them from wherever it is called.
    monkeypatch.chdir(tmp_path)
    signed_anew(made, tmp_path / "other", tail_onnx=content)
    with pytest.raises(ValueError, match=r"tail\.onnx: must not speak of a location"):
        load(tmp_path / "other")


def packed(made: Path) -> bytes:
    content = io.BytesIO()
    with np.load(made / "trials.npz") as stored:
        np.savez_compressed(content, **stored)
    return content.getvalue()


def again(made: Path) -> bytes:
    """Return the trials with entries that lie in each other: all are there several times."""
    content = (made / "trials.npz").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start, count = archive.start_dir, len(archive.infolist())
    size = len(content) - 22 - start
    listed = content[start : start + size] * 3
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3 * count, 3 * count, 3 * size, start, 0)
    return content[:start] + listed + end


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("stem_onnx", lambda made: b"no graph", "must hold what fedlite export writes"),
        ("tail_onnx", lambda made: (made / "model.onnx").read_bytes(), "Required inputs"),
        ("trials_npz", lambda made: b"PK", "must hold what fedlite export writes"),
        ("trials_npz", packed, "must not be compressed"),
        ("trials_npz", again, "must not be larger than its file"),
        ("bundle_json", lambda made: b"[]", "has no 'labels'"),
        ("bundle_json", lambda made: b'{"labels": 1}', "has no 'preprocessing'"),
        ("bundle_json", lambda made: described(made, labels=1), "must hold what fedlite export"),
        ("bundle_json", lambda made: described(made, threshold=float("nan")), "threshold must be"),
        ("bundle_json", lambda made: described(made, labels=["a"]), "of 1 labels and inputs"),
        ("bundle_json", lambda made: described(made, shape=[64]), r"inputs \[64\] it has stored"),
    ],
)
def test_what_a_stranger_has_signed_is_refused_with_one_line(
    made: Path, tmp_path: Path, name: str, change: Callable[[Path], bytes], rule: str
) -> None:
    signed_anew(made, tmp_path / "other", **{name: change(made)})
    with pytest.raises(ValueError, match=rule):
        load(tmp_path / "other")


def test_names_in_a_graph_steer_no_terminal(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnx

    stem = onnx.load(made / "stem.onnx")
    shape = onnx.numpy_helper.from_array(np.array([7, 13]), "wrong")
    stem.graph.initializer.append(shape)
    node = onnx.helper.make_node("Reshape", ["x", "wrong"], ["odd"], name="node\x1b[2J")
    stem.graph.node.insert(0, node)
    stem.graph.output.append(onnx.helper.make_tensor_value_info("odd", 1, [7, 13]))
    signed_anew(made, tmp_path / "other", stem_onnx=stem.SerializeToString())
    with pytest.raises(ValueError, match="must hold what fedlite export writes"):
        load(tmp_path / "other")
    # Not by Python, but by native code to the terminal itself.
    assert "\x1b" not in "".join(capfd.readouterr())


def test_what_is_said_in_a_bundle_forges_no_display(made: Path, tmp_path: Path) -> None:
    signed_anew(made, tmp_path / "b", bundle_json=described(made, promise="\x1b[2Jall is well"))
    np.savez(tmp_path / "x.npz", x=X[:2])
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "b"), str(tmp_path / "x.npz")])
    assert done.exit_code == 0 and "all is well" in done.output and "\x1b[2J" not in done.output


def test_all_files_together_have_a_bound(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = max(file.stat().st_size for file in made.iterdir())
    monkeypatch.setattr(manifest, "_LARGEST", largest)
    with pytest.raises(ValueError, match="made: must be smaller than"):
        load(made)


@pytest.mark.long
def test_what_its_makers_own_machine_refuses_is_left_unsigned(run: Path, tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Flatten())
    flat.add_module("location", nn.Linear(64, 8))
    model = Branched(flat, nn.Linear(8, 10), nn.Linear(8, 10), shape=(1, 8, 8), classes=10)
    with pytest.raises(ValueError, match="no layer being called so"):
        write_bundle(replace(open_model(run), model=model), tmp_path / "b")
    with pytest.raises(ValueError, match=r"manifest\.json: no such file"):
        load(tmp_path / "b")
