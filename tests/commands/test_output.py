"""How a command fails, and what it prints where nobody watches.

Covers fedlite/cli.py, fedlite/commands/main.py, fedlite/commands/site.py.
"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.table import Table
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.commands.output import FAILED, WRONG_USE, told
from fedlite.privacy.ledger.rules import LedgerBusy, LedgerError, LedgerPoisoned
from fedlite.reporting import terminal
from fedlite.scenario import ScenarioError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ScenarioError("a key"), WRONG_USE),
        (ValueError("an argument"), WRONG_USE),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), WRONG_USE),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), WRONG_USE),
        (LedgerError("chain", "is damaged", path="x"), WRONG_USE),
        (LedgerBusy("second-writer", "is in use", path="x"), FAILED),
        (LedgerPoisoned("poisoned", "its disk failed", path="x"), FAILED),
        (RuntimeError("a run"), FAILED),
        (ConnectionError("nobody answers"), FAILED),
        (PermissionError(errno.EACCES, "Permission denied", "x"), FAILED),
        (OSError(errno.ENOSPC, "No space left on device"), FAILED),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_is_wrong_decides_the_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, told():
        raise error
    assert ended.value.exit_code == code
    said = capsys.readouterr().err
    assert said.startswith("fedlite: ") and said.count("\n") == 1
    # Only there may anything have been half written.
    assert ("what was written before is whole" in said) == ("space" in said)


WRONG = [
    "simulate nothing",
    "simulate {tmp}/folder.toml",
    "simulate --engine ray2",
    "simulate quickstart --set federation.name=..",
    "simulate quickstart --set federation.name=a/b",
    "simulate --resume {tmp}/none",
    "simulate --out {tmp}/file/run",
    "audit mechanism quickstart --out {tmp}/file/found",
    "audit mechanism quickstart --confidence 2",
    "audit mechanism nothing",
    "data fetch nothing",
    "data fetch csv",
    "report {tmp}/none",
    "report {tmp}",
    "site init {tmp}/h --name ../x",
    "site init {tmp}/file --name x",
    "site init {tmp}/h --name x --epsilon -1",
    "site approve {tmp}/none",
    "site status {tmp}/none",
    "site start {tmp}/none",
    "site join {tmp}/none {tmp}/none",
    "site raise {tmp}/none {tmp}/none",
    "site raise {tmp} {tmp}/none",
    "site rotate {tmp}/none",
    "site rotate-key {tmp}/none",
    "site recover {tmp}/none digits",
    "site grant {tmp}/none --key {tmp}/key.pem --epsilon 2",
    "server status {tmp}/none",
    "server start {tmp}/none",
    "server init {tmp}/c --address foo",
    "server submit --follow x --coordinator {tmp}/none",
    "server revoke x --coordinator {tmp}/none",
    "server approve {tmp}/none --coordinator {tmp}/none",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_call_is_told_in_one_message_and_exits_with_2(line: str, tmp_path: Path) -> None:
    """Most of these ended with 1, as a failure that one may try again."""
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, line.format(tmp=tmp_path).split())
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.output.startswith(("fedlite: ", "Usage: ")) and result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.toml"]


@pytest.mark.parametrize(
    ("line", "mend"),
    [
        ("simulate patients.csv", 'write [data] name = "csv", path = "patients.csv"'),
        ("simulate --set data.name=csv --set data.path=x.csv --set data.target=y",
         "--set changes quickstart, which is private by record"),
        ("data fetch heart", "did you mean heart-disease?"),
    ],
)  # fmt: skip
def test_what_a_newcomer_tries_first_is_told_what_is_meant(line: str, mend: str) -> None:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2 and mend in result.stderr


def test_the_engine_is_checked_before_the_data_are_read(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[data]\nname = "csv"\npath = "none.csv"\ntarget = "y"\n')
    result = CliRunner().invoke(app, ["simulate", str(file), "--engine", "seral"])
    assert result.exit_code == 2 and "--engine: must be one of auto" in result.output
    assert "none.csv" not in result.output


def test_a_directory_is_named_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.toml").mkdir()
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "x.toml")])
    assert "is a directory" in result.output and "mend that line" not in result.output


def test_lines_end_without_blanks_where_no_terminal_shows_them() -> None:
    def shown(stream: io.StringIO) -> list[str]:
        table = Table(box=None, title="title", title_justify="left")
        for name in ("a", "b"):
            table.add_column(name)
        table.add_row("long enough", "")
        terminal.console(stream).print(table)
        return stream.getvalue().splitlines()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    plain, coloured = shown(io.StringIO()), shown(Terminal())
    assert plain and not [line for line in plain if line != line.rstrip()]
    assert len(coloured) == len(plain)
    assert [line for line in coloured if line != line.rstrip()]  # the test can fail


def test_a_list_in_a_pipe_has_no_blanks_at_its_ends() -> None:
    code = "from fedlite.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "digits" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line != line.rstrip()]


def test_who_reads_no_further_is_told_nothing() -> None:
    """As by `| head`: it was called a broken pipe, with the mend to check the path."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from fedlite.cli import main; main()"]
    done = subprocess.run(
        [*command, "data", "list", "--json"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
