"""`fedlite site approve`: which bundles of code may run at a site."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedlite.commands.output import (
    FAILED,
    WRONG_USE,
    Json,
    SiteFolder,
    fail,
    print_folded,
    print_json,
    tell,
    told,
    user,
)

if TYPE_CHECKING:
    from clients.runtime.approval import Review


def approve(
    home: SiteFolder,
    bundle: Annotated[
        str, typer.Argument(help="A file, or the first digits of a SHA-256. Default: list them.")
    ] = "",
    at_most: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Let a number rise to this; repeatable."),
    ] = None,
    changed_code: Annotated[
        bool, typer.Option("--changed-code", help="Allow code that is not installed here.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    revoke: Annotated[str, typer.Option(metavar="SHA256", help="Take an approval back.")] = "",
    as_json: Json = False,
) -> None:
    """Look at a bundle that a coordinator sent, and let it run here, or not."""
    with told(home):
        from clients.runtime import approval

        if revoke:
            digest = approval.revoke(home, revoke)
            tell({"revoked": digest}, f"{digest[:16]} may not run here any more", as_json)
        elif not bundle:
            _list(home, as_json)
        else:
            found = approval.find(home, bundle)
            seen = approval.review(home, found, approval.loosened(found, at_most or []))
            _decide(home, seen, changed_code, yes, as_json)


def _decide(home: Path, seen: Review, changed_code: bool, yes: bool, as_json: bool) -> None:
    from clients.runtime import approval

    if not as_json:
        _show(seen)
    why = list(seen.refused)
    if seen.changed and not changed_code:
        own = len(seen.own)
        said, mend = f"{len(seen.changed)} files differ from the code installed here", ""
        if own < len(seen.changed):
            mend = "install the coordinator's version of fedlite, or "
        if own:
            said += f", {own} of them the coordinator's own, which no version of fedlite has"
        why.append(f"{said}; {mend}read them and add --changed-code")
    if not why and not yes:
        if as_json:
            fail("--json: nobody can be asked; add --yes", WRONG_USE)
        if not typer.confirm("May this run here, on these data?", default=False):
            why.append("the operator said no")
    if why:
        approval.refuse(home, seen, "; ".join(why))
        if as_json:
            print_json(seen.to_dict() | {"approved": False, "refused": why})
        fail("not approved: " + "; ".join(why), FAILED)
    approval.approve(home, seen, user())
    text = f"approved {seen.bundle.sha256}; it runs when the coordinator asks again"
    tell(seen.to_dict() | {"approved": True}, text, as_json)


def _list(home: Path, as_json: bool) -> None:
    from clients.runtime import approval
    from fedlite.deployment import bundle as bundles

    rows: list[dict[str, Any]] = []
    for path in approval.waiting(home):
        try:
            name, problem = bundles.read(path).name, ""
        except ValueError as error:
            name, problem = "", str(error)
        rows.append({"sha256": path.stem, "name": name, "problem": problem})
    if as_json:
        print_json({"waiting": rows})
        return
    for row in rows:
        typer.echo(f"{row['sha256']}  {_plain(row['name'])}  {_plain(row['problem'])}".rstrip())
    if rows:
        typer.echo(f"Look at one with: fedlite site approve {home} {rows[0]['sha256'][:12]}")
    else:
        typer.echo("No bundle is waiting.")


def _show(seen: Review) -> None:
    """Print the page. What the bundle says of itself may not steer the terminal."""
    from rich.table import Table
    from rich.text import Text

    from fedlite.reporting import terminal

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    facts = [
        ("bundle", _plain(seen.bundle.name)),
        ("SHA-256", seen.bundle.sha256),
        ("code", f"{seen.same} files are those installed here, {len(seen.changed)} are not"),
        *(("", name) for name in seen.changed),
        *seen.facts,
        *(("warning", text) for text in seen.warnings),
        *(("refused", text) for text in seen.refused),
    ]
    for title, text in facts:
        table.add_row(title, Text(_plain(text), style="red" if title == "refused" else ""))
    terminal.console().print(table)
    for name, text in seen.changed.items():
        _show_file(name, text, seen.bundle.files[name])


def _show_file(name: str, text: str, digest: str) -> None:
    """Print a file that is not installed here, whole, every line with its number.

    What is too long for a line of the screen goes on below a mark, never at the left edge: there it
    could pass for the next line, with code of this one in what looks like a comment.
    """
    width = max(20, get_terminal_size().columns - len("    1 | "))
    typer.echo(f"\n--- {name}: CODE THAT IS NOT INSTALLED HERE, SHA-256 {digest}")
    for number, line in enumerate(_LINES.split(text.removesuffix("\n")), 1):
        print_folded(_plain(line.replace(chr(9), "    ")), width, f"{number:5} | ", "      > ")
    typer.echo(f"--- end of {name}")


# Where Python ends a line.
_LINES = re.compile(r"\r\n|\r|\n")


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
