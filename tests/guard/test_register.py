"""A ledger that went back, and a second budget on the same records, are found by the machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedlite.guard.folder import Home
from fedlite.guard.policy import DataSet
from fedlite.guard.register import Kept, Register, site_of
from fedlite.privacy.ledger import Head

OWN = DataSet("scans", "csv", path="own.csv", target="y")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Home]:
    def made(name: str, table: str = "x,y\n1,2\n", dataset: str = "scans") -> Home:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        (path / "own.csv").write_text(table)
        return Home(path, name, dataset)

    return made


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(tmp_path / "register")


def ledger(*hashes: str) -> Any:
    """Return a ledger's rows; its name is the first one's hash."""
    return [SimpleNamespace(hash=one) for one in hashes]


def test_a_second_folder_on_the_same_records_is_refused(
    register: Register, make: Callable[..., Home]
) -> None:
    first, second, other = make("a"), make("b"), make("c", "x,y\n1,3\n")
    for _ in range(2):
        register.claim(first, OWN, "")
    with pytest.raises(Kept, match=rf"site join {first.path} INVITATION"):
        register.claim(second, OWN, "")
    register.claim(other, OWN, "")
    # The file may be called and lie as it likes.
    shutil.copy(first.path / "own.csv", second.path / "copy.csv")
    with pytest.raises(Kept):
        register.claim(second, DataSet("s", "csv", path="copy.csv", target="y"), "")


def test_the_same_records_by_two_names_of_one_site_are_refused(
    register: Register, make: Callable[..., Home]
) -> None:
    home = make("a")
    register.claim(home, OWN, "")
    with pytest.raises(Kept, match=r"are \[data\.scans\] of this site already"):
        register.claim(Home(home.path, "a", "again"), OWN, "")


def test_parts_of_a_table_are_apart_and_the_whole_is_none_of_them(
    register: Register, make: Callable[..., Home]
) -> None:
    def part(name: str) -> DataSet:
        return DataSet("scans", "csv", path="own.csv", target="y", part=name)

    register.claim(make("a"), part("north"), "")
    register.claim(make("b"), part("south"), "")
    with pytest.raises(Kept):
        register.claim(make("c"), part("north"), "")
    with pytest.raises(Kept):
        register.claim(make("c"), OWN, "")


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_has_gone_binds_own_records_and_not_public_ones(
    register: Register, make: Callable[..., Home], again: bool
) -> None:
    public = DataSet("digits", "digits")
    first, second = make("a"), make("b")
    register.claim(first, OWN, "")
    register.claim(first, public, "")
    with pytest.raises(Kept):
        register.claim(second, public, "")
    shutil.rmtree(first.path)
    if again:
        site_of(make("a"))  # another site in its place
    with pytest.raises(Kept, match=r"which is not there any more.*site adopt"):
        register.claim(second, OWN, "")
    register.claim(second, public, "")


def test_a_folder_that_was_moved_is_the_same_site(
    register: Register, make: Callable[..., Home], tmp_path: Path
) -> None:
    home = make("a")
    register.claim(home, OWN, "")
    register.note(home, Head("h0", 4, "h4", ""))
    moved = Home(home.path.rename(tmp_path / "moved"), "a", "scans")
    register.claim(moved, OWN, "")
    with pytest.raises(Kept, match="no ledger any more"):
        register.check(moved, ledger())


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (ledger(), "there is no ledger any more"),
        (ledger("new", "h1"), "this is another ledger"),
        (ledger("h0", "h1"), "it has 2 rows"),
        (ledger("h0", "h1", "other"), "it has 3 rows, and not that one"),
    ],
)
def test_a_ledger_that_went_back_is_found(
    register: Register, make: Callable[..., Home], rows: Any, told: str
) -> None:
    home = make("a")
    register.check(home, rows)
    register.note(home, Head("h0", 2, "h2", ""))
    with pytest.raises(Kept, match=rf"row 2 was written on this machine, and {told}.*site adopt"):
        register.check(home, rows)
    register.check(home, ledger("h0", "h1", "h2"))
    register.check(home, ledger("h0", "h1", "h2", "h3"))
    # Another data set of the same site is another ledger.
    register.check(Home(home.path, "a", "other"), rows)


def test_the_owner_s_word_lets_a_site_begin_anew(
    register: Register, make: Callable[..., Home]
) -> None:
    first, second = make("a"), make("b")
    register.claim(first, OWN, "ab" * 32)
    register.note(second, Head("h0", 2, "h2", ""))
    assert [one.owner for one in register.conflicts(second, OWN)] == ["ab" * 32]
    register.adopt(second, OWN, "")
    register.claim(second, OWN, "")
    register.check(second, ledger())
    with pytest.raises(Kept):
        register.claim(first, OWN, "")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"claims": [{"x": 1}]}', '{"claims": 3}', "\0"])
def test_a_damaged_register_refuses_with_its_name(
    register: Register, make: Callable[..., Home], text: str
) -> None:
    home = make("a")
    register.claim(home, OWN, "")
    register.note(home, Head("h0", 2, "h2", ""))
    for path in register.folder.rglob("*.json"):
        path.write_text(text)
    with pytest.raises(Kept, match="is damaged"):
        register.claim(home, OWN, "")
    with pytest.raises(Kept, match="is damaged"):
        register.check(home, ledger())


def test_the_register_holds_no_digest_of_a_table_that_can_be_guessed(
    register: Register, make: Callable[..., Home]
) -> None:
    import hashlib

    home = make("a")
    register.claim(home, OWN, "")
    told = "".join(path.name + path.read_text() for path in register.folder.rglob("*.json"))
    content = (home.path / "own.csv").read_bytes()
    guesses = [hashlib.sha256(known).hexdigest() for known in (content, b"file " + content)]
    assert not any(guess in told for guess in guesses)
    assert json.loads(next((register.folder / "records").iterdir()).read_text())["claims"]


@pytest.mark.parametrize("name", ["FEDLITE_REGISTER", "XDG_STATE_HOME"])
def test_the_register_does_not_depend_on_where_a_command_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Two folders would have two registers, and each its own budget on the same records."""
    monkeypatch.delenv("FEDLITE_REGISTER", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "state")
    if name == "FEDLITE_REGISTER":
        with pytest.raises(ValueError, match="must be an absolute path, got 'state'"):
            Register.own()
    else:
        assert Register.own().folder == tmp_path / ".local/state/fedlite/register"
    monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "nowhere")
    with pytest.raises(ValueError, match="FEDLITE_REGISTER: must be set"):
        Register.own()


def test_what_cannot_be_remembered_may_not_be_spent(
    tmp_path: Path, make: Callable[..., Home]
) -> None:
    (tmp_path / "file").write_text("")
    register, home = Register(tmp_path / "file" / "register"), make("a")
    for deed in (
        lambda: register.claim(home, OWN, ""),
        lambda: register.note(home, Head("h0", 2, "h2", "")),
        lambda: register.check(home, ledger()),
    ):
        with pytest.raises(Kept, match=r"must be readable and writable.*FEDLITE_REGISTER"):
            deed()
    assert "ReadWritePaths=" in register.problem()
    assert Register(tmp_path / "register").problem() == ""
