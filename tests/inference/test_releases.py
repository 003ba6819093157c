"""A bundle on its way from a coordinator to a site, and all that a hostile one might send instead.

Covers fedlite/inference/announcement.py, server/coordinator/released.py, clients/runtime/shelf.py,
clients/runtime/fetching.py, fedlite/commands/releases.py.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from clients.runtime import fetching, released as decisions
from clients.runtime.trouble import RunOver, Unreachable
from fedlite.identity import keys
from fedlite.inference import manifest
from fedlite.inference.announcement import MAX_BYTES, PART_BYTES, Announcement, File
from server.coordinator import released
from tests.inference.forged import signed_anew
from tests.inference.releasing import Place, site


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def joined(text: str) -> str:
    """Return a text as it is before a screen folds it."""
    return "".join(text.replace("\n> ", "").split())


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Return a signed folder of two files, one of which takes several parts."""
    key = keys.generate(tmp_path / "plain.pem")
    files = {"bundle.json": b"{}", "stem.onnx": os.urandom(2 * PART_BYTES + 5)}
    manifest.write(tmp_path / "plain", files, key)
    return tmp_path / "plain"


@pytest.mark.long
def test_a_release_is_heard_of_fetched_looked_at_and_used_and_there_is_a_way_back(
    place: Place, made: Path, tmp_path: Path
) -> None:
    first = released.release(place.coordinator, made, "the first")
    place.run()
    assert place.journal() == ["released"] and "is not" in place.said[-1]
    assert place.asked == ["released"] and not place.shelf.whole(first)
    assert site(place, first.sha256[:12])[0] == 2
    place.allow()
    place.run()
    assert place.journal() == ["released", "fetched"] and place.shelf.whole(first)
    for path in made.iterdir():
        assert (place.shelf.path(first.sha256) / path.name).read_bytes() == path.read_bytes()
    # Nothing is used before a person has said so.
    assert place.shelf.state().current == "" and not (place.shelf.folder / "current").exists()
    code, page = site(place, first.sha256[:12], answer="n\n")
    assert code == 1 and place.shelf.state().current == ""
    assert "the first" in page and f"{first.size:,} bytes" in page
    promise = json.loads((made / "bundle.json").read_text())["promise"]
    assert joined(promise) in joined(page) and "| # routed" in page and "| sites |" in page
    code, page = site(place, first.sha256[:12], "--yes")
    assert code == 0 and place.shelf.state().current == first.sha256
    current = place.shelf.folder / "current"
    key = json.loads((made / "manifest.json").read_text())["key"]
    assert f"fedlite serve {current} --signed-by {key}" in page
    assert manifest.read(current, key).keys() > {"bundle.json"}

    told = json.loads((made / "bundle.json").read_text()) | {"promise": "Nothing at all."}
    signed_anew(made, tmp_path / "second", bundle_json=json.dumps(told).encode())
    second = released.release(place.coordinator, tmp_path / "second", "the second")
    assert second.number > first.number
    place.run()
    # What was approved stays in use, whatever is on the server since.
    assert place.shelf.state().current == first.sha256
    code, page = site(place, second.sha256[:12], "--yes")
    assert code == 0 and "promise: " in page and "Nothingatall." in joined(page)
    assert (current / "bundle.json").read_bytes() == (tmp_path / "second/bundle.json").read_bytes()
    assert site(place, "--back")[0] == 0
    assert (current / "bundle.json").read_bytes() == (made / "bundle.json").read_bytes()
    assert place.journal()[2:] == ["refuse", "use", "released", "fetched", "use", "back"]
    assert "in use of study: " + first.sha256 in site(place)[1]
    assert [row["action"] for row in place.shelf.state().history] == ["use", "use", "back"]


def test_what_is_no_bundle_is_not_released(place: Place, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "cut")
    (tmp_path / "cut" / "stem.onnx").write_bytes(b"")
    for folder, note, rule in (
        (tmp_path / "cut", "", "changed, or cut off"),
        (tmp_path, "", "no such file"),
        (made, "two\nlines", "one printable line"),
        (made, "\u202eevil", "one printable line"),
    ):
        with pytest.raises(ValueError, match=rule):
            released.release(place.coordinator, folder, note)
    assert released.current(place.coordinator) is None


def test_only_what_the_coordinators_own_key_has_signed_is_heard(
    place: Place, plain: Path, tmp_path: Path
) -> None:
    place.allow()
    made = place.announce(plain, 10)
    signed = made.encode(place.key)
    other = made.encode(keys.generate(tmp_path / "other.pem"))
    told = json.loads(signed)
    for data, rule in (
        (other, "must be signed by"),
        (json.dumps(told | {"number": 11}).encode(), "must be signed by"),
        (json.dumps(told | {"signature": 3}).encode(), "must be signed by"),
        (signed[:-1], "none that a coordinator writes"),
        (b"[" * 60_000, "none that a coordinator writes"),
        (b"[]", "none that a coordinator writes"),
        (json.dumps(told | {"more": 1}).encode(), "none that a coordinator writes"),
        (signed + b" " * MAX_BYTES, "at most"),
    ):
        with pytest.raises(ValueError, match=rule):
            place.shelf.accept(data)
        assert place.shelf.announced() is None
    place.changed["released"] = lambda _: other
    place.run()
    place.run()
    assert place.journal() == ["refuse"] and place.asked == ["released", "released"]


@pytest.mark.parametrize(
    ("name", "size", "digest", "rule"),
    [
        ("../site.toml", 1, "0" * 64, "plain names"),
        ("/etc/passwd", 1, "0" * 64, "plain names"),
        ("..", 1, "0" * 64, "plain names"),
        (".hidden", 1, "0" * 64, "plain names"),
        ("a\x00b", 1, "0" * 64, "plain names"),
        ("ab\n", 1, "0" * 64, "plain names"),
        ("a" * 65, 1, "0" * 64, "plain names"),
        ("a", -1, "0" * 64, "size"),
        ("a", 1 << 60, "0" * 64, "size"),
        ("a", True, "0" * 64, "size"),
        ("a", 1.5, "0" * 64, "size"),
        ("a", 1, "../" * 21 + "x", "sha256"),
        ("a", 1, "A" * 64, "sha256"),
    ],
)
def test_a_file_that_is_announced_has_a_plain_name_and_a_size(
    name: str, size: Any, digest: str, rule: str
) -> None:
    good = {"manifest.json": File(1, "0" * 64)}
    Announcement(1, "m", "", good)
    with pytest.raises(ValueError, match=rule):
        Announcement(1, "m", "", good | {name: File(size, digest)})


def test_an_old_release_cannot_be_brought_back_by_whoever_has_the_line_only(
    place: Place, plain: Path, made: Path
) -> None:
    place.allow()
    old = released.release(place.coordinator, made)
    replayed = (place.coordinator.releases / released.ANNOUNCED).read_bytes()
    new = place.announce(plain, old.number + 5)
    place.run()
    for data in (
        replayed,
        # Another under the same number: a site would not know which of both is meant.
        Announcement(new.number, "other", "", new.files).encode(place.key),
    ):
        place.changed["released"] = lambda _, data=data: data  # type: ignore[misc]
        place.fetching = place.start()
        place.run()
        assert "must be newer than" in place.said[-1] and place.shelf.announced() == new
    # Nor where the announcement that was seen is lost, and what is in use is known.
    (place.shelf.folder / "announced.json").unlink()
    place.shelf.use(new.sha256, number=new.number, by="me", action="use")
    place.run()
    assert place.shelf.announced() is None and place.journal().count("refuse") == 2


def test_what_comes_otherwise_than_it_was_announced_is_not_kept(place: Place, plain: Path) -> None:
    place.allow()
    made = place.announce(plain, 10)
    for change, rule in (
        (lambda part: part[:-1] + b"x", "must be what the coordinator has announced"),
        (lambda part: part + b"x" * PART_BYTES, "more bytes"),
        (lambda part: b"", "no bytes"),
        # Of parts of one byte a bundle would have millions, and the site asks for nothing else.
        (lambda part: part[:1], "fewer bytes"),
    ):
        place.changed["released-part"] = lambda part, c=change: c(part)[:PART_BYTES]  # type: ignore
        place.fetching = place.start()
        place.run()
        assert rule in place.said[-1], place.said
        assert not place.shelf.whole(made) and not place.shelf.part(made.sha256).exists()
    # A liar is not asked for the same again and again.
    place.changed["released-part"] = lambda part: part[:-1] + b"x"
    place.fetching = place.start()
    place.run()
    before = len(place.asked)
    place.run()
    assert place.asked[before:] == ["released"]
    place.changed.clear()
    place.fetching = place.start()
    place.run()
    assert place.shelf.whole(made)


def test_a_bundle_that_is_too_large_is_not_asked_for(place: Place, plain: Path) -> None:
    place.allow(bytes=2 * PART_BYTES)
    made = place.announce(plain, 10)
    place.run()
    assert place.asked == ["released"] and "releases.bytes" in place.said[-1]
    assert not place.shelf.part(made.sha256).exists() and place.journal()[-1] == "refuse"


def test_a_site_that_was_stopped_goes_on_where_it_was(place: Place, plain: Path) -> None:
    place.allow()
    made = place.announce(plain, 10)
    place.fetching.step(place.ask)
    place.fetching.step(place.ask)
    place.fetching.step(place.ask)
    have = {path.name: path.stat().st_size for path in place.shelf.part(made.sha256).iterdir()}
    assert sum(have.values()) > 0 and not place.shelf.whole(made)
    asked = len(place.asked)
    place.fetching = place.start()
    place.run()
    assert place.shelf.whole(made)
    parts = sum(-(-one.size // PART_BYTES) for one in made.files.values())
    assert place.asked.count("released-part") == parts and len(place.asked) > asked
    # Another that is announced meanwhile takes its place, and what came of the first goes.
    manifest.write(plain.parent / "b", {"b": b"b"}, keys.load(plain.parent / "plain.pem"))
    again = place.announce(plain.parent / "b", 11)
    place.run()
    assert place.shelf.whole(again) and not place.shelf.path(made.sha256).exists()
    # A manifest that was seen, with another file beside it, is no bundle.
    odd = place.announce(plain.parent / "b", 12, more_txt=b"x")
    place.run()
    assert "nobody signed it" in " ".join(site(place, odd.sha256, "--yes")[1].split())


def test_a_full_disk_leaves_what_is_in_use(
    place: Place, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.allow()
    made = place.announce(plain, 10)
    with monkeypatch.context() as patch:
        full = shutil.disk_usage(place.home)._replace(free=1000)
        patch.setattr(fetching.shutil, "disk_usage", lambda _: full)
        place.run()
        assert "make room" in place.said[-1] and place.asked == ["released"]
    with monkeypatch.context() as patch:

        def fsync(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        place.fetching.step(place.ask)
        patch.setattr(fetching.os, "fsync", fsync)
        place.run()
        assert not place.shelf.part(made.sha256).exists() and not place.shelf.whole(made)
    place.run()
    assert place.shelf.whole(made)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"[" * 4000, b"[1, 2, 3]", b'["..", "coordinator.toml", 0]', b"null",
     b'["%s", "../witness.pem", 0]', b'["%s", "manifest.json", -1]', b'["%s", ".", 0]',
     b'["%s", "manifest.json", 1e999]', b'["%s", {}, 0]'],
)  # fmt: skip
def test_a_site_is_handed_files_of_the_release_and_nothing_else(
    place: Place, plain: Path, body: bytes
) -> None:
    made = place.announce(plain, 10)
    asked = body.replace(b"%s", made.sha256.encode())
    assert released.answer(place.coordinator.releases, "released-part", asked) == b""
    good = json.dumps([made.sha256, "bundle.json", 0]).encode()
    assert released.answer(place.coordinator.releases, "released-part", good) == b"{}"


def test_a_coordinator_of_an_older_release_is_asked_seldom(place: Place) -> None:
    def ask(*_: object) -> bytes:
        place.asked.append("")
        raise RunOver("HTTP 403")

    place.fetching.step(ask)
    place.fetching.step(ask)
    assert len(place.asked) == 1 and place.said == [] and place.journal() == []


def test_a_coordinator_that_hands_nothing_out_is_asked_less_and_less(
    place: Place, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.allow()
    place.announce(plain, 10)
    now = [0.0]
    monkeypatch.setattr(fetching.time, "monotonic", lambda: now[0])
    times: list[float] = []

    def ask(path: str, body: bytes, limit: int) -> bytes:
        if path == "released":
            return place.ask(path, body, limit)
        times.append(now[0])
        raise Unreachable("HTTP 503")

    while now[0] < 3600:
        place.fetching.step(ask)
        now[0] += 0.25
    assert 5 < len(times) < 20 and place.said[1:] == []


def test_what_was_wrong_at_the_coordinator_is_mended_by_releasing_anew(
    place: Place, made: Path
) -> None:
    place.allow()
    one = released.release(place.coordinator, made)
    graph = place.coordinator.releases / one.sha256 / "tail.onnx"
    right = graph.read_bytes()
    graph.write_bytes(right[:-1] + b"!")
    place.run()
    assert "must be what the coordinator" in place.said[-1] and not place.shelf.whole(one)
    two = released.release(place.coordinator, made)
    assert two.sha256 == one.sha256 and graph.read_bytes() == right
    place.run()
    assert place.shelf.whole(two)
    # A bundle of which a part is gone is no bundle that waits for a yes: it is fetched again.
    (place.shelf.path(two.sha256) / "tail.onnx").unlink()
    assert decisions.known(place.home)[0]["state"] == "not fetched"
    place.run()
    assert place.shelf.whole(two)


def test_what_a_killed_process_left_is_in_no_bundle(place: Place, plain: Path) -> None:
    place.allow()
    made = place.announce(plain, 10, empty_txt=b"")
    place.fetching.step(place.ask)
    (place.shelf.part(made.sha256) / ".bundle.json.77.part").write_bytes(b"x")
    place.run()
    assert place.shelf.whole(made)


def test_other_files_under_the_manifest_in_use_take_nothing_away(place: Place, made: Path) -> None:
    place.allow()
    one = released.release(place.coordinator, made)
    place.run()
    assert site(place, one.sha256, "--yes")[0] == 0
    odd = place.announce(made, one.number + 1, more_txt=b"x")
    place.run()
    assert "names other files" in place.said[-1] and not place.shelf.whole(odd)
    assert place.shelf.whole(one) and decisions.known(place.home)[0]["state"] == "damaged"


@pytest.mark.parametrize(
    "told", [{"number": "7"}, {"number": None}, {"number": 1e999}, {"history": [1]},
             {"history": "abc"}, {"current": 3}, {"more": 1}],
)  # fmt: skip
def test_a_damaged_state_is_told_and_disturbs_no_run(
    place: Place, plain: Path, told: dict[str, Any]
) -> None:
    made = place.announce(plain, 10)
    place.run()
    row = {"current": "", "previous": "", "number": 0, "history": []}
    (place.shelf.folder / "state.json").write_text(json.dumps(row | told))
    again = place.announce(plain, 11)
    place.run()
    assert "must hold what is in use" in place.said[-1] and place.shelf.announced() == made
    assert site(place, again.sha256, "--yes")[0] == 2
    assert decisions.known(place.home)[0]["state"] == "damaged"
