"""A base of one's own has a name and a digest at every site, and comes from a hub by one command.

Covers fedlite/data/shelf.py, fedlite/data/bases.py.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.data import shelf
from fedlite.data.bases import check_pin, find, shelf as names, shelved
from fedlite.data.text.tokens import digest_of, open_tokenizer
from fedlite.guard.policy import DataSet
from fedlite.guard.records import own_records
from fedlite.scenario import from_dict
from tests.data.test_weights import written
from tests.data.text.wordy import wordy

pytest.importorskip("tokenizers")
COMMIT = "c0ffee" * 6 + "c0ff"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a cache of the test's own."""
    monkeypatch.setenv("FEDLITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Return the folder of a base, of weights that fit no network."""
    folder = written(tmp_path / "mine")
    wordy(folder)
    return folder


def test_a_folder_gets_a_name_that_stands_for_its_content(mine: Path, cache: Path) -> None:
    base = shelf.put("clinical", mine)
    assert base == find("clinical") == shelved("clinical")
    assert base.folder() == cache / "bases" / "clinical"
    pins = {
        name: hashlib.sha256((mine / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    told = json.dumps(pins, sort_keys=True).encode()
    assert base.identity == hashlib.sha256(told).hexdigest() == find(str(mine)).identity
    assert digest_of("clinical") == pins["tokenizer.json"]
    assert open_tokenizer("clinical").digest == pins["tokenizer.json"]
    # It is a copy: what becomes of the folder changes nothing, and the name is taken.
    (mine / "config.json").write_text('{"other": 1}')
    assert find("clinical").identity == base.identity
    with pytest.raises(ValueError, match=r"'clinical' is another base already.*choose another"):
        shelf.put("clinical", mine)
    (base.folder() / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"sha256 must be .*put the base there again"):
        find("clinical").folder()


def test_a_link_out_of_the_folder_is_copied_and_not_kept(mine: Path, tmp_path: Path) -> None:
    (mine / "model.safetensors").rename(tmp_path / "elsewhere")
    (mine / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    base = shelf.put("linked", mine)
    assert not any(path.is_symlink() for path in base.folder().iterdir())


def test_what_is_no_base_gets_no_name(mine: Path, cache: Path, tmp_path: Path) -> None:
    for name in ("minilm", "..", "a/b", "", ".hidden"):
        with pytest.raises(ValueError, match=r"NAME: must be letters, digits"):
            shelf.put(name, mine)
    with pytest.raises(ValueError, match=r"must hold config\.json, .*lacks tokenizer\.json"):
        shelf.put("a", written(tmp_path / "bare"))
    (mine / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must have a token for padding"):
        shelf.put("a", mine)
    assert not list(cache.glob("bases/*/base.json"))


@pytest.mark.parametrize("files", [None, 5, ["config.json"], {"config.json": "ab"}])
def test_a_record_that_says_nothing_of_the_files_is_named(mine: Path, files: object) -> None:
    record = shelf.put("clinical", mine).folder() / "base.json"
    record.write_text(json.dumps({"files": files}))
    with pytest.raises(ValueError, match=r"base\.json: is damaged; remove .*clinical, and put it"):
        find("clinical")


def test_what_was_not_put_to_the_end_has_no_name(mine: Path, cache: Path) -> None:
    base = shelf.put("clinical", mine)
    base.folder().rename(cache / "bases" / ".clinical.part")
    assert names() == ()
    with pytest.raises(ValueError, match=r"must be one of minilm, smollm2 or a folder"):
        find("clinical")
    assert shelf.put("clinical", mine) == base and names() == ("clinical",)


def notes(tmp_path: Path) -> DataSet:
    """Return a site's own texts."""
    path = tmp_path / "notes.jsonl"
    rows = [{"note": f"the patient has pain {n}", "seen": "ab"[n % 2]} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataSet("notes", "jsonl", path=str(path), target="seen")


def asked(pin: str) -> Any:
    """Return what a coordinator asks for."""
    data = {"name": "csv", "text": "note", "tokenizer": "clinical", "base_sha256": pin}
    return from_dict({"data": data | {"labels": "a, b", "length": 8}})


def test_a_site_with_another_base_is_refused_before_a_text_is_read(
    mine: Path, tmp_path: Path
) -> None:
    chosen = notes(tmp_path)
    with pytest.raises(ValueError, match=r"'clinical': must be a base .*data add clinical FOLDER"):
        own_records(asked("ab" * 32), chosen, tmp_path, "north")
    pin = shelf.put("clinical", mine).identity
    _, data = own_records(asked(pin), chosen, tmp_path, "north")
    assert data.train.x.shape[1:] == (2, 8)
    with pytest.raises(ValueError, match=rf"base_sha256: the base clinical must be abab.*{pin}"):
        own_records(asked("ab" * 32), chosen, tmp_path, "north")
    # Of the catalog's, too, where somebody has pinned one.
    with pytest.raises(ValueError, match=r"minilm"):
        check_pin("minilm", pin)
    with pytest.raises(ValueError, match=r"must be a base model on this machine"):
        check_pin(str(mine), pin)


class Hub(BaseHTTPRequestHandler):
    """The two addresses of a hub: what a model has, and a file of it."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        """Answer."""
        type(self).asked.append(self.path)
        if "/api/models/org/clinical/revision/" in self.path and "nope" not in self.path:
            files = [
                {"rfilename": path.name, "size": path.stat().st_size, "blobId": "0" * 40}
                for path in sorted(self.folder.iterdir())
            ]
            about = {"id": "org/clinical", "modelId": "org/clinical", "sha": COMMIT}
            card = {"cardData": {"license": "mit"}, "tags": [], "private": False}
            return self._say(200, json.dumps(about | card | {"siblings": files}).encode())
        if f"/resolve/{COMMIT}/" in self.path:
            return self._say(200, (self.folder / self.path.rpartition("/")[2]).read_bytes())
        return self._say(404, b"")

    do_HEAD = do_GET

    def _say(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve the folder as a hub, and return what is asked of it."""
    pytest.importorskip("huggingface_hub")
    (mine / "pytorch_model.bin").write_bytes(b"pickle")
    (mine / "modeling_evil.py").write_text("raise SystemExit")
    Hub.folder, Hub.asked = mine, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield Hub.asked
    server.shutdown()
    server.server_close()


def test_a_hub_s_model_comes_by_its_commit_without_code_and_pickle(
    hub: list[str], mine: Path
) -> None:
    told = CliRunner().invoke(
        app, ["data", "fetch", "org/clinical@main", "--as", "notes", "--json"]
    )
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    base = find("notes")
    assert found["base_sha256"] == base.identity == find(str(mine)).identity
    assert found["what"].endswith(f"/org/clinical@{COMMIT}") and found["licence"] == "mit"
    names = {path.name for path in base.folder().iterdir()}
    assert names == {
        "base.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    # Files come from the commit that the revision was, and no other is asked for.
    files = [path for path in hub if "/resolve/" in path]
    assert files and all(f"/resolve/{COMMIT}/" in path for path in files)
    assert not [path for path in hub if path.endswith((".bin", ".py"))]
    listed = CliRunner().invoke(app, ["data", "list", "--json"])
    assert {"notes", "minilm"} <= {row["name"] for row in json.loads(listed.stdout)["sources"]}
    # From here on nothing is asked of a hub.
    before = len(hub)
    open_tokenizer("notes")
    assert len(hub) == before


def test_a_hub_that_does_not_answer_is_told(hub: list[str]) -> None:
    with pytest.raises(ConnectionError, match=r"org/nope@nope could not be fetched.*data add"):
        shelf.fetch("org/nope@nope")
    with pytest.raises(ValueError, match=r"must be ORG/NAME"):
        shelf.fetch("nope")
