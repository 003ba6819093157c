"""Whom a run is for: names and groups, and that nobody else is sent anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedlite.deployment import journal
from fedlite.scenario import ScenarioError, from_dict
from server.coordinator import enrolment, groups
from server.coordinator.enrolment import Site


@dataclass(frozen=True)
class Folder:
    path: Path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    sites = {
        name: Site(number, f"key {number}", "ab", "2026-11-01T00:00:00Z", name == "gone")
        for number, name in enumerate(["berlin", "köln, west", "gone", "paris"], 7)
    }
    enrolment.save(tmp_path, sites)
    return Folder(tmp_path)


def federation(**keys: object) -> object:
    return from_dict({"federation": keys}).federation


def test_names_mean_these_sites_and_a_group_all_that_are_in_it(folder: Folder) -> None:
    assert groups.members(folder.path, federation()) == ()
    named = federation(sites=2, members='paris, "köln, west"')
    assert groups.members(folder.path, named) == ("köln, west", "paris")
    groups.set_groups(folder, "paris", ("cardio", "heart"))
    groups.set_groups(folder, "gone", ("cardio",))
    for group in ("@cardio", " @heart "):
        assert groups.members(folder.path, federation(members=group)) == ("paris",)
    # Changed later: this site only, and every change is journalled.
    groups.set_groups(folder, "paris", ())
    groups.set_groups(folder, "berlin", ("cardio",))
    assert groups.members(folder.path, federation(members="@cardio")) == ("berlin",)
    assert enrolment.load(folder.path)["paris"].groups == ()
    lines = journal.read(folder.path / "audit")
    assert [(line["site"], line["groups"]) for line in lines] == [
        ("paris", "cardio, heart"),
        ("gone", "cardio"),
        ("paris", ""),
        ("berlin", "cardio"),
    ]


def test_sites_approved_by_an_older_release_are_in_no_group(folder: Folder) -> None:
    path = folder.path / "sites.json"
    said = json.loads(path.read_bytes())
    for entry in said.values():
        del entry["groups"]
    path.write_text(json.dumps(said))
    assert {site.groups for site in enrolment.load(folder.path).values()} == {()}


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"members": "london", "sites": 1}, "got london; those here: berlin, köln, west, paris"),
        ({"members": "gone", "sites": 1}, "must be approved sites, got gone"),
        ({"members": "@neuro"}, "got '@neuro'; those here: cardio; give one with"),
        ({"members": "@cardio", "quorum": 2}, "must be at most the 1 sites of federation.members"),
    ],
)
def test_unknown_ones_are_refused_with_the_known(
    folder: Folder, keys: dict[str, object], why: str
) -> None:
    groups.set_groups(folder, "paris", ("cardio",))
    with pytest.raises(ValueError, match=why):
        groups.members(folder.path, federation(**keys))


@pytest.mark.parametrize("name", ["", "@cardio", "a b", "x" * 65])
def test_a_group_is_a_word(folder: Folder, name: str) -> None:
    with pytest.raises(ValueError, match="group: must be 1 to 64"):
        groups.set_groups(folder, "paris", (name,))
    with pytest.raises(ValueError, match="has no site 'rome'; those there: berlin"):
        groups.set_groups(folder, "rome", ())


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ("a, b", "federation.sites: must be the number of federation.members, of which 2 are"),
        ("a, a", "federation.members: must be empty, @GROUP, or names"),
        ("a, @b, c, d, e", "federation.members: must be one group or names of sites"),
        ("@a, b", "federation.members: must be one group or names of sites"),
    ],
)
def test_what_contradicts_itself_is_refused(members: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=why):
        from_dict({"federation": {"members": members}})


def test_weak_sites_are_approved_ones_of_the_run_and_not_all(folder: Folder) -> None:
    def check(weak: str, members: tuple[str, ...] = ()) -> None:
        groups.check_weak(folder.path, federation(sites=9, weak_sites=weak), members)

    check("")
    check('paris, "köln, west"')
    check("paris", ("berlin", "paris"))
    for weak, members, message in (
        ("pariss", (), r"weak_sites: must be approved sites, got pariss; those here: berlin"),
        ("gone", (), r"got gone"),
        ("paris", ("berlin", "köln, west"), r"approved sites of the run, got paris"),
        ('berlin, paris, "köln, west"', (), r"got all 3"),
        ("paris", ("paris",), r"got all 1"),
    ):
        with pytest.raises(ValueError, match=message):
            check(weak, members)
