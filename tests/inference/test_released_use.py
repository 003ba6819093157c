"""A released bundle before and after a person has looked at it.

Covers clients/runtime/released.py, clients/runtime/trial.py.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from pathlib import Path

import pytest

from clients.runtime import backup, released as decisions, seats, setup as sites, shelf, trial
from clients.runtime.fetching import Fetching
from fedlite.deployment.invitation import Invitation
from fedlite.identity import keys
from fedlite.inference.announcement import Announcement, File
from server.coordinator import released
from server.coordinator.setup import init
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


@pytest.mark.parametrize("how", ["changed", "cut", "gone", "more"])
def test_one_in_use_that_is_damaged_is_fetched_again(place: Place, made: Path, how: str) -> None:
    place.allow()
    one = released.release(place.coordinator, made)
    place.run()
    decisions.approve(place.home, decisions.review(place.home, one.sha256), "me")
    folder = place.shelf.path(one.sha256)
    graph, right = folder / "tail.onnx", (folder / "tail.onnx").read_bytes()
    if how == "gone":
        graph.unlink()
    elif how == "more":
        (folder / "more.txt").write_text("x")
    else:
        graph.write_bytes(right[:-1] + (b"" if how == "cut" else bytes([right[-1] ^ 1])))
    # As the site is started again; nobody decides anew, as it is what was decided on.
    place.asked.clear()
    place.fetching = place.start()
    place.run()
    assert graph.read_bytes() == right and sorted(p.name for p in folder.iterdir()) == sorted(
        one.files
    )
    assert place.shelf.state().current == one.sha256 and "damaged" in place.journal()
    (row,) = decisions.known(place.home)
    assert row["state"] == "in use"
    fetched = place.asked.count("released-part")
    place.fetching = place.start()
    place.run()
    assert fetched and place.asked.count("released-part") == fetched, "it is fetched once"


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


@pytest.mark.long
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


def two_of_them(place: Place, made: Path, root: Path) -> tuple[Announcement, Announcement]:
    """Put one in use, and let a second come."""
    place.allow()
    one = released.release(place.coordinator, made)
    place.run()
    assert site(place, one.sha256, "--yes")[0] == 0
    signed_anew(made, root / "second", README_md=b"two")
    two = released.release(place.coordinator, root / "second")
    place.run()
    return one, two


@pytest.mark.long
def test_the_site_removes_nothing_while_somebody_says_yes(
    place: Place, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hears of a third bundle while the second is tried out."""
    _, two = two_of_them(place, made, tmp_path)
    real = trial.try_out

    def slow(folder: Path, key: str) -> None:
        real(folder, key)
        place.announce(tmp_path / "third", two.number + 1)
        place.run()

    signed_anew(made, tmp_path / "third", README_md=b"three")
    monkeypatch.setattr(trial, "try_out", slow)
    assert site(place, two.sha256, "--yes")[0] == 0
    current = place.shelf.folder / "current"
    assert (current / "README.md").read_bytes() == b"two"
    assert place.shelf.state().current == two.sha256
    # Once it is over, the site goes on.
    place.run()
    assert (place.shelf.path(place.shelf.announced().sha256) / "README.md").is_file()  # type: ignore
    assert (current / "README.md").read_bytes() == b"two"


@pytest.mark.long
def test_another_coordinator_that_names_the_same_bundle_stops_nobody(
    place: Place, made: Path, tmp_path: Path
) -> None:
    place.allow()
    one = released.release(place.coordinator, made)
    place.run()
    evil = init(tmp_path / "evil", "evil", "e:1")
    invited = Invitation.decode(evil.invitation.read_bytes())
    sites.join(place.home, evil.invitation, fingerprint=invited.fingerprint)
    seat = seats.every(place.home)[1]
    files = {"manifest.json": File(1, one.sha256)}
    data = Announcement(1, "x", "", files).encode(keys.load(evil.witness_key))
    fetching = Fetching(place.home, seat, lambda *_, **__: None, lambda _: None)
    fetching.step(lambda path, *_: data if path == "released" else b"")
    code, page = site(place, one.sha256, "--yes")
    assert code == 2 and "fits 2" in page and "--coordinator" in page
    assert site(place, one.sha256, "--yes", "--coordinator", "evil")[0] == 2
    assert site(place, one.sha256, "--yes", "--coordinator", "study")[0] == 0
    # Nor one whose file is damaged.
    (seat / "releases" / "announced.json").write_bytes(b"x")
    assert site(place, one.sha256, "--yes")[0] == 0


@pytest.mark.long
def test_what_is_shown_is_where_the_link_leads_whenever_the_power_goes(
    place: Place, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = two_of_them(place, made, tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    link = place.shelf.folder / "current"
    for where, name in (
        (shelf, "write_atomic"),
        (shelf.Path, "symlink_to"),
        (decisions.Journal, "write"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, full)
            assert site(place, two.sha256, "--yes")[0] != 0
        assert place.shelf.state().current == one.sha256 == link.readlink().name
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(shelf, "write_atomic", killed)
        with pytest.raises(KeyboardInterrupt):
            place.shelf.use(two.sha256, number=two.number, by="me", action="use")
    state = place.shelf.state()
    assert state.current == two.sha256 == link.readlink().name and state.previous == one.sha256
    assert site(place, "--back")[0] == 0 and place.shelf.state().current == one.sha256


@pytest.mark.long
def test_a_site_that_was_restored_takes_no_old_release(
    place: Place, made: Path, tmp_path: Path
) -> None:
    place.allow()
    old = released.release(place.coordinator, made)
    replayed = (place.coordinator.releases / released.ANNOUNCED).read_bytes()
    _, two = two_of_them(place, made, tmp_path)
    backup.backup(place.home, tmp_path / "backup")
    shutil.rmtree(place.home)
    backup.restore(tmp_path / "backup", place.home)
    place.fetching = place.start()
    state = place.shelf.state()
    assert state.current == "" and state.number > 0 and place.shelf.announced() == two
    place.changed["released"] = lambda _: replayed
    place.run()
    assert "must be newer than" in place.said[-1] and not place.shelf.path(old.sha256).exists()
    place.changed.clear()
    place.run()
    assert place.shelf.whole(two)


@pytest.mark.long
def test_no_line_of_the_page_can_be_forged_and_it_is_short(
    place: Place, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    one, _ = two_of_them(place, made, tmp_path)
    told = json.loads((made / "bundle.json").read_text())
    forged = f"{'made by':<12} {'aa' * 32}".ljust(78)
    told |= {f"k{at}": 0 for at in range(5000)} | {"a" * 1000 + "\n" + forged: 1}
    told["promise"] = "free".ljust(65) + forged + "x" * 100_000
    signed_anew(made, tmp_path / "odd", bundle_json=json.dumps(told).encode())
    place.announce(tmp_path / "odd", place.shelf.state().number + 100)
    place.run()
    page = site(place, place.shelf.announced().sha256, answer="n\n")[1]  # type: ignore[union-attr]
    lines = page.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("not in use"))
    assert sum(line.startswith("made by") for line in lines) == 1
    assert len(lines) < 300 and len(page) < 20_000 and "more: not shown" in page
    assert "made by another key" in page.replace("\n> ", "")
    assert one.sha256 in page


@pytest.mark.long
def test_a_bundle_that_never_ends_is_tried_out_for_so_long(
    place: Place, made: Path, tmp_path: Path
) -> None:
    """A graph is no code, so no rule forbids one that loops for ever."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    model = onnx.load_from_string((made / "stem.onnx").read_bytes())
    name = model.graph.output[1].name
    for node in model.graph.node:
        for names in (node.input, node.output):
            for at, one in enumerate(names):
                if one == name:
                    names[at] = name + "_"
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [info("i", kinds.INT64, []), info("c", kinds.BOOL, []), info("v", kinds.FLOAT, [])],
        [info("d", kinds.BOOL, []), info("w", kinds.FLOAT, [])],
    )
    model.graph.initializer.extend(
        helper.make_tensor(*one, [], [value])
        for one, value in (
            (("M", kinds.INT64), 1 << 40),
            (("C", kinds.BOOL), True),
            (("V", kinds.FLOAT), 0.0),
        )
    )
    model.graph.node.extend(
        [
            helper.make_node("Loop", ["M", "C", "V"], ["L"], body=body),
            helper.make_node("Add", [name + "_", "L"], [name]),
        ]
    )
    key = signed_anew(made, tmp_path / "odd", stem_onnx=model.SerializeToString())
    began = time.process_time()
    with pytest.raises(ValueError, match="within 2 s of processor time"):
        trial.try_out(tmp_path / "odd", key, 2)
    trial.try_out(made, json.loads((made / "manifest.json").read_text())["key"], 60)
    assert time.process_time() - began < 2
