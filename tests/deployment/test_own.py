"""Which of the user's files may travel in a bundle, and that what is shown is what runs."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedlite.deployment import bundle as bundles, own
from fedlite.deployment.bundle import BundleError
from fedlite.scenario import Scenario, from_dict, load

MODEL = b"import helper\n\ndef make(shape, classes):\n    return helper.make(shape, classes)\n"
HELPER = b"def make(shape, classes):\n    return 3\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    study = tmp_path / "study"
    (study / "models").mkdir(parents=True)
    (study / "models" / "net.py").write_bytes(MODEL)
    (study / "models" / "helper.py").write_bytes(HELPER)
    (study / "rule.py").write_bytes(b"class Rule: ...\n")
    (study / "unused.py").write_bytes(b"1 / 0\n")
    (study / "s.toml").write_text(
        '[model]\nname = "models/net.py:make"\n[federation]\nstrategy = "rule.py:Rule"\n'
    )
    return study


def test_what_is_named_and_what_it_imports_travels_and_nothing_else(folder: Path) -> None:
    scenario, files = own.pack(load(folder / "s.toml"), folder)
    assert scenario.model.name == "own/models/net.py:make"
    assert scenario.federation.strategy == "own/rule.py:Rule"
    assert files == {
        "own/models/net.py": MODEL,
        "own/models/helper.py": HELPER,
        "own/rule.py": b"class Rule: ...\n",
    }
    assert own.refused(scenario) == [] and own.pack(from_dict({}), folder) == (from_dict({}), {})


def packed(folder: Path, section: str, key: str, name: str) -> str:
    (folder / "s.toml").write_text(f"[{section}]\n{key} = {name!r}\n")
    with pytest.raises(ValueError, match=key) as caught:
        own.pack(load(folder / "s.toml"), folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "key", "name", "message"),
    [
        ("model", "name", "../other.py:make", "must be a file in the scenario's folder"),
        ("model", "name", "models/../../other.py:make", "must be a file in the scenario's folder"),
        ("model", "name", "linked.py:make", "must be a file in the scenario's folder"),
        ("model", "name", "there/net.py:make", "must be a file in the scenario's folder"),
        ("model", "name", "gone.py:make", "no such file"),
        ("model", "name", "os:system", "must be file.py:function in a deployment"),
        ("uplink", "compressor", "subprocess:run", "must be file.py:function in a deployment"),
        ("model", "name", "python:make", "must be file.py:function in a deployment"),
        ("data", "name", "unused.py:load", "data.name: must be a name in a deployment"),
        ("data", "partition", "unused.py:split", "data.partition: must be a name in a deployment"),
    ],
)
def test_what_lies_elsewhere_does_not_travel(
    folder: Path, section: str, key: str, name: str, message: str
) -> None:
    other = folder.parent / "other.py"
    other.write_bytes(b"make = 1\n")
    (folder / "linked.py").symlink_to(other)
    (folder / "there").symlink_to(folder / "models")
    assert message in packed(folder, section, key, name)


def test_a_helper_that_is_a_link_out_of_the_folder_does_not_travel(folder: Path) -> None:
    secret = folder.parent / "secret.py"
    secret.write_bytes(b"KEY = 1\n")
    (folder / "models" / "helper.py").unlink()
    (folder / "models" / "helper.py").symlink_to(secret)
    with pytest.raises(ValueError, match=r"helper.py: must be a file in the scenario's folder"):
        own.pack(load(folder / "s.toml"), folder)


UNREADABLE = [
    (b"x = '\xff'\n", "must be UTF-8"),
    (b"\xef\xbb\xbfx = 1\n", "must be UTF-8 and say no other coding, got utf-8-sig"),
    (b"# coding: utf-7\n# +AAo-import os\n", "must be UTF-8 and say no other coding, got utf-7"),
    (b"# -*- coding: latin-1 -*-\n", "must be UTF-8 and say no other coding, got iso-8859-1"),
    (b"# coding: no-such\n", "must be UTF-8"),
    (b"x = 1\0\n", r"line 1: must hold no character that hides or turns text, got \x00"),
    ("y = 1\n# \u202e} \u2066if admin\u2069\n".encode(), r"line 2: must hold no .* got \u202e"),
    ("x = 'a\u200bb'\n".encode(), r"got \u200b"),
    (b"x = 1\x1b[2J\n", r"got \x1b"),
    (b"x = 1 # \rimport os\n", r"got \r"),
    (b"x = 1\x0cimport os\n", r"got \x0c"),
    ("x = 1\u2028y = 2\n".encode(), r"got \u2028"),
    ("\u0430 = 1\n".encode(), "line 1: must have names of ASCII letters"),
    ("import \uff4f\uff53\n".encode(), "line 1: must have names of ASCII letters"),
    ("print(f'{\uff45val(1)}')\n".encode(), "line 1: must have (f-strings|names) of ASCII"),
    ('x = 1\ny = rF"{\u0430}"\n'.encode(), "line 2: must have (f-strings|names) of ASCII"),
    ("\u2118rint = 1\n".encode(), "line 1: must have names of ASCII letters"),
    ("a\u00b7b = 1\n".encode(), "line 1: must have names of ASCII letters"),
    # Bytes of a program in 256 characters that no screen shows.
    ("x = '\U000e0155\U000e0160'\n".encode(), r"got \U000e0155"),
    ("x = 'a\ufe0f'\n".encode(), r"got \ufe0f"),
    ("x = '\u3164'\n".encode(), r"got \u3164"),
    # Between two letters from the right everything else is shown from the right, too.
    ("ok = user == '\u05d0', 1, 2, '\u05d1'\n".encode(), r"got \u05d0"),
    ("# \u0627 1 > 2 \u0628\n".encode(), r"got \u0627"),
    (b"def (:\n  '''", "must be Python"),
    (b"#" * 100_001, "must have at most 100,000 bytes, got 100,001"),
    (b"x" * 10_000_000, "must have at most 100,000 bytes"),
]


@pytest.mark.parametrize(("content", "message"), UNREADABLE)
def test_what_a_person_cannot_read_as_it_is_run_does_not_travel(
    folder: Path, content: bytes, message: str
) -> None:
    import re

    assert re.search(message.replace("\\", "\\\\"), own.unreadable("own/a.py", content))
    (folder / "rule.py").write_bytes(content)
    with pytest.raises(ValueError, match=r"rule.py: "):
        own.pack(load(folder / "s.toml"), folder)


def test_ordinary_text_travels() -> None:
    for text in (
        "# Größe, 中文, é\nx = 'ß'\n",
        "a = 1\r\nb = 2\r\n",
        "\tx = 1\n" * 0,
        "if 1:\n\tx = 1\n",
        "print(f'{1:.1f} ± {2} …', 'Größe', f'Gr\\u00f6\\u00dfe')\n",
    ):
        assert own.unreadable("own/a.py", text.encode()) == ""


@pytest.mark.parametrize(
    "name",
    ["own/torch.py", "own/fedlite/__init__.py", "own/clients.py", "own/a/os.py", "own/a-b.py",
     "own/Random.py", "own/a.txt", "own/.hidden.py"],
)  # fmt: skip
def test_a_file_that_stands_for_another_module_does_not_travel(name: str) -> None:
    assert own.unreadable(name, b"x = 1\n")


def bundle(files: dict[str, bytes], **tables: Any) -> bytes:
    config = from_dict(tables).to_dict()
    app = {"components": bundles.COMPONENTS, "config": config}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pyproject.toml", tomli_w.dumps({"tool": {"flwr": {"app": app}}}))
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def named(name: str) -> dict[str, Any]:
    return {"model": {"name": name}}


def test_a_bundle_says_which_files_are_the_user_s_own() -> None:
    found = bundles.read(bundle({"own/a.py": MODEL, "clients/x.py": b""}, **named("own/a.py:make")))
    assert list(found.own) == ["own/a.py"] and found.own["own/a.py"] == found.files["own/a.py"]
    other = bundles.read(bundle({"own/a.py": HELPER}, **named("own/a.py:make")))
    assert other.sha256 != found.sha256, "a changed file is another bundle"


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({}, "own/a.py:make", "must name a file of the bundle below own/"),
        ({"own/a.py": MODEL}, "own/b.py:make", "must name a file of the bundle below own/"),
        ({"own/a.py": MODEL}, "own/../own/a.py:make", "must name a file of the bundle below own/"),
        ({"own/a.py": MODEL}, "/own/a.py:make", "must name a file of the bundle below own/"),
        ({"own/a.py": MODEL}, "./own/a.py:make", "must name a file of the bundle below own/"),
        ({"clients/a.py": MODEL}, "clients/a.py:make", "must name a file of the bundle below own/"),
        ({}, "os:system", "must be file.py:function in a deployment"),
        ({}, "subprocess:run", "must be file.py:function in a deployment"),
        ({"own/torch.py": MODEL}, "cosine", "not as a module of Python"),
        ({"OWN/a.py": MODEL}, "cosine", "must lie below own/, in this spelling"),
        ({"own/a.py": b"\xff"}, "cosine", "must be UTF-8"),
        ({"own/../clients/app.py": MODEL}, "cosine", "plain letters"),
        ({"/own/a.py": MODEL}, "cosine", "plain letters"),
        ({"own/a\0.py": MODEL}, "cosine", "regular file|plain letters|must end in"),
        ({f"own/a{n}.py": b"" for n in range(51)}, "cosine", "at most 50 files, got 51"),
    ],
)  # fmt: skip
def test_a_bundle_that_hides_something_is_refused(
    files: dict[str, bytes], name: str, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        bundles.read(bundle(files, **named(name)))


def test_no_sent_code_and_no_sent_folder_reads_a_site_s_texts(folder: Path) -> None:
    """A site's own process reads its records: what it runs and opens is its operator's choice."""
    notes = '[data]\nname = "csv"\npath = "n.csv"\ntext = "note"\ntarget = "seen"\n'
    (folder / "s.toml").write_text(notes + 'tokenizer = "./mine"\nredactor = "unused.py:hide"\n')
    scenario = load(folder / "s.toml")
    with pytest.raises(ValueError, match=r"data\.redactor: must be a name in a deployment"):
        own.pack(scenario, folder)
    folders, code = own.refused(scenario)
    assert folders.startswith("data.tokenizer: must be the name of a base model in a deployment")
    assert code.startswith("data.redactor: must be a name in a deployment")
    wrong = own.check({}, {"data.tokenizer": "/etc", "data.redactor": "own/unused.py:hide"})
    assert set(wrong) == {"data.tokenizer", "data.redactor"}
    # What a shell or a working directory would make a folder of, and what has no tokens.
    for name in ("..", ".", "~", "org/name"):
        assert set(own.check({}, {"data.tokenizer": name})) == {"data.tokenizer"}
    assert set(own.check({}, {"data.tokenizer": "mine"})) == {"data.base_sha256"}
    assert own.check({}, {"data.tokenizer": "mine", "data.base_sha256": "ab" * 32}) == {}
    for base in ("/home/jane/mine", "mine", 3):
        told = {"data.tokenizer": "", "model.options": json.dumps({"base": base})}
        assert set(own.check({}, told)) == {"model.options.base"}, base
    (folder / "s.toml").write_text(notes + 'tokenizer = "minilm"\nredactor = "theirs"\n')
    assert own.refused(load(folder / "s.toml")) == []
    assert own.check({}, {"data.tokenizer": "minilm", "data.redactor": "theirs"}) == {}


def test_a_setting_of_another_type_names_nothing() -> None:
    assert own.check({}, {"model.name": 3, "data.name": True}) == {}
    assert isinstance(own.pack(Scenario(), Path("/"))[0], Scenario)
