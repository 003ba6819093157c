"""A released bundle before and after a person has looked at it.

Covers clients/runtime/released.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from clients.runtime import released as decisions
from server.coordinator import released
from tests.inference.forged import signed_anew
from tests.inference.releasing import Place, site


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_was_changed_after_it_came_is_not_used(place: Place, made: Path) -> None:
    place.allow()
    one = released.release(place.coordinator, made)
    place.run()
    seen = decisions.review(place.home, one.sha256[:8])
    graph = place.shelf.path(one.sha256) / "tail.onnx"
    right = graph.read_bytes()
    for spoil in (
        lambda: graph.write_bytes(right + b"x"),
        lambda: (graph.parent / "more.txt").write_text("x"),
    ):
        spoil()
        with pytest.raises(ValueError, match="announced"):
            decisions.approve(place.home, seen, "me")
        assert decisions.review(place.home, one.sha256).refused
        code, page = site(place, one.sha256, "--yes")
        assert code == 1 and "not in use" in page and place.shelf.state().current == ""
        graph.write_bytes(right)
    (graph.parent / "more.txt").unlink()
    # Another is announced between the look and the yes.
    place.announce(made, one.number + 1, more_txt=b"x")
    place.run()
    with pytest.raises(ValueError, match="another was announced meanwhile"):
        decisions.approve(place.home, seen, "me")


def test_a_bundle_that_answers_otherwise_here_is_not_used(
    place: Place, made: Path, tmp_path: Path
) -> None:
    """Its maker and the coordinator have signed it, and this machine finds out."""
    place.allow()
    told = json.loads((made / "bundle.json").read_text())
    told["labels"] = told["labels"][:-1]
    signed_anew(made, tmp_path / "odd", bundle_json=json.dumps(told).encode())
    one = place.announce(tmp_path / "odd", 10)
    place.run()
    code, page = site(place, one.sha256, "--yes")
    assert code == 1 and "must answer here as where it was made" in page
    assert place.shelf.state().current == ""


def test_what_a_card_says_steers_no_terminal(place: Place, made: Path, tmp_path: Path) -> None:
    place.allow()
    card = "\x1b[2J\x1b[31m# fine\u202e\u2066 \r> overwritten\n" + "wide " * 100 + "\n" * 3
    told = json.loads((made / "bundle.json").read_text()) | {"promise": "all\x1b[0m\nrefused  no"}
    files = {"README_md": card.encode() + b"\xff" * 100_000}
    signed_anew(made, tmp_path / "odd", bundle_json=json.dumps(told).encode(), **files)
    one = place.announce(tmp_path / "odd", 10)
    place.run()
    code, page = site(place, one.sha256, answer="n\n")
    assert code == 1 and "more bytes are not shown" in page
    assert not [c for c in page if not c.isprintable() and c != "\n"]
    # Nothing of the card begins a line, where it could pass for a line of the page.
    inside = page.split("--- its card")[1].split("--- end of the card")[0].splitlines()[1:]
    assert all(line[:2] in ("| ", "> ") or line in ("|", "") for line in inside)


def test_there_is_no_way_back_to_what_was_changed(place: Place, made: Path, tmp_path: Path) -> None:
    place.allow()
    assert site(place, "--back")[0] == 2
    one = released.release(place.coordinator, made)
    place.run()
    site(place, one.sha256, "--yes")
    assert site(place, "--back")[0] == 2
    signed_anew(made, tmp_path / "second", README_md=b"x")
    two = released.release(place.coordinator, tmp_path / "second")
    place.run()
    assert site(place, two.sha256, "--yes")[0] == 0
    shutil.rmtree(place.shelf.path(one.sha256))
    shutil.copytree(place.shelf.path(two.sha256), place.shelf.path(one.sha256))
    assert site(place, "--back")[0] == 2 and place.shelf.state().current == two.sha256
