"""The page on which an operator sees with whom the site would share its noise.

Covers clients/runtime/sharing.py, fedlite/guard/foretold.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clients.runtime import approval, doctor, status
from fedlite.deployment import bundle as bundles
from fedlite.privacy import SharedMechanism, accounting
from fedlite.protection import plan_mechanism
from tests.clients.runtime.hospitals import COORDINATES, NAMES, Hospitals, init, scenario
from tests.clients.runtime.test_approval import call, made

FIRST = NAMES[0]


VALUES = 2064


def bundle(members: dict[str, str], **privacy: object) -> bytes:
    """Return the bundle of `scenario`."""
    plan = scenario(members, **{"coordinates": VALUES} | privacy)
    tables = {k: v for k, v in plan.to_dict().items() if k in ("federation", "uplink", "privacy")}
    return made(**tables)


@pytest.mark.long
def test_names_keys_and_both_epsilons_stand_on_the_page(tmp_path: Path) -> None:
    four = Hospitals(tmp_path, coordinates=VALUES)
    path = tmp_path / "plan.fab"
    path.write_bytes(bundle(four.keys))
    code, output = call(tmp_path / FIRST, path, "--yes")
    assert code == 0, output
    told = "".join(output.split())
    for name, key in four.keys.items():
        own = "(thissite)" * (name == FIRST)
        assert f'"{name}"{own},whosekeyis{key}' in told, output
        # Nothing else is on its line: no name may make it look like another's.
        (line,) = [line for line in output.splitlines() if key[:32] in line]
        assert key.startswith(line.strip()), line
    mechanism = plan_mechanism(four.plan)
    assert isinstance(mechanism, SharedMechanism) and mechanism.carried == 2
    alone = accounting.seen_with(mechanism, 1, 1e-5)
    for part in (
        f'"{FIRST}" (this site)',
        "at least 3 of 4: this site and 2 others, and site.toml trusts 2 (budget.honest)",
        "if at least 3 of the 4 are honest",
        f"{alone:.2f}"[:-1],
        "if all others collude with the server",
        "of 20 (budget.alone)",
        "noise shared with other sites",
    ):
        assert "".join(part.split()) in told, (part, output)


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"honest = 2": "honest = 1"}, "budget.honest: trusts 1 others, and the plan takes 2"),
        ({"alone = 20.0": "alone = 0.0", "epsilon = 10.0": "epsilon = 3.0"}, "budget.alone: 3 is"),
        ({"epsilon = 10.0": "epsilon = 20.0"}, "budget.epsilon: 20 is too high a ceiling"),
        ({'units = ["record-shared"]': 'units = ["record"]'}, "budget.units: must hold 'record-s"),
    ],
)
def test_what_is_beyond_the_policy_is_refused_with_the_key_that_says_so(
    tmp_path: Path, change: dict[str, str], why: str
) -> None:
    four = Hospitals(tmp_path)
    path = tmp_path / FIRST / "site.toml"
    for old, new in change.items():
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    given = tmp_path / "plan.fab"
    given.write_bytes(bundle(four.keys))
    seen = approval.review(tmp_path / FIRST, bundles.read(given), {})
    assert any(text.startswith(why) for text in seen.refused), seen.refused
    with pytest.raises(ValueError, match=why[:20]):
        approval.approve(tmp_path / FIRST, seen, "me")


@pytest.mark.long
def test_a_site_that_is_not_on_the_list_or_by_another_key_cannot_approve(tmp_path: Path) -> None:
    four = Hospitals(tmp_path)
    init(tmp_path, "zurich")
    given = tmp_path / "plan.fab"
    given.write_bytes(bundle(four.keys))
    (why,) = approval.review(tmp_path / "zurich", bundles.read(given), {}).refused
    assert why.startswith("privacy.members: must hold this site, 'zurich', got ")
    given.write_bytes(bundle(four.keys | {FIRST: "e" * 64}))
    (why,) = approval.review(tmp_path / FIRST, bundles.read(given), {}).refused
    assert why.startswith("privacy.members: has the key eeeeeeeeeeeeeeee... for this site")


@pytest.mark.long
def test_a_changed_list_is_another_bundle_and_the_page_says_what_changed(tmp_path: Path) -> None:
    four = Hospitals(tmp_path)
    first, second = tmp_path / "first.fab", tmp_path / "second.fab"
    first.write_bytes(bundle(four.keys))
    second.write_bytes(bundle(four.keys | {NAMES[3]: "e" * 64}))
    seen = approval.review(tmp_path / FIRST, bundles.read(first), {})
    approval.approve(tmp_path / FIRST, seen, "me")
    again = approval.review(tmp_path / FIRST, bundles.read(second), {})
    assert again.since is not None
    (changed,) = [row for row in again.since.settings if row[0] == "privacy.members"]
    assert four.keys[NAMES[3]] in changed[1] and "e" * 64 in changed[2]


@pytest.mark.long
def test_more_honest_ones_by_at_most_are_held_against_the_policy(tmp_path: Path) -> None:
    """Less noise by a number that the operator let rise: the page judges the most of it."""
    four = Hospitals(tmp_path)
    given = tmp_path / "plan.fab"
    given.write_bytes(bundle(four.keys))
    read = bundles.read(given)
    most = approval.loosened(read, ["privacy.honest=4"])
    (why,) = approval.review(tmp_path / FIRST, read, most).refused
    assert why.startswith("budget.honest: trusts 2 others, and the plan takes 3 for honest")


@pytest.mark.long
def test_what_rests_on_others_is_told_wherever_the_budget_is(tmp_path: Path) -> None:
    four = Hospitals(tmp_path)
    four.join(four.group())
    four.sites[FIRST].vector(1, four.values()[FIRST])
    home = tmp_path / FIRST
    (row,) = status._budgets(home, four.sites[FIRST].guard.policy())
    assert row["honest"] == 2 and row["collusion"] == 20.0 and row["spent"] < row["alone"] < 20
    (check,) = list(doctor._trust(four.sites[FIRST].guard.policy()))
    assert check.state == doctor.OK and "2 others are trusted to be honest" in check.what
    text = (home / "site.toml").read_text().replace("honest = 2\n", "honest = 0\n")
    (home / "site.toml").write_text(text)
    (check,) = list(doctor._trust(four.sites[FIRST].guard.policy()))
    assert check.state == doctor.WARNING and "budget.honest trusts nobody" in check.what


def test_scripts_are_told_all_members_and_every_line(tmp_path: Path) -> None:
    four = Hospitals(tmp_path)
    given = tmp_path / "plan.fab"
    given.write_bytes(bundle(four.keys))
    told = approval.review(tmp_path / FIRST, bundles.read(given), {}).to_dict()
    assert {one["name"]: one["key"] for one in told["members"]} == four.keys
    for name, key in four.keys.items():
        assert name in told["facts"]["shares noise with"]
        assert key in told["facts"]["shares noise with"].split("\n")
    assert "" not in told["facts"]


@pytest.mark.long
def test_the_page_shows_the_trust_that_the_ledger_keeps(tmp_path: Path) -> None:
    """Who lowered `honest` and raised it again by site.toml alone is refused later: say so now."""
    from fedlite.guard import policy as site_policy
    from fedlite.guard.folder import Home
    from fedlite.privacy.budget import Budget
    from fedlite.privacy.ledger import Ledger

    four = Hospitals(tmp_path)
    four.join(four.group())
    four.sites[FIRST].vector(1, four.values()[FIRST])
    home, path = tmp_path / FIRST, tmp_path / FIRST / "site.toml"
    text, place = path.read_text(), Home(tmp_path / FIRST, FIRST, "digits")
    path.write_text(
        text.replace("honest = 2\n", "honest = 1\n").replace("alone = 20.0", "alone = 0")
    )
    with Ledger.open(place.ledger, place.key()) as opened:
        Budget(opened).enforce(site_policy.load(path))
    path.write_text(text)
    given = tmp_path / "plan.fab"
    given.write_bytes(bundle(four.keys))
    seen = approval.review(home, bundles.read(given), {})
    (why,) = seen.refused
    assert why.startswith("budget.honest: the ledger keeps 1 others, lower than site.toml, and ")
    assert why.endswith("(`fedlite site grant`)")
    assert (
        "trusts 2 (budget.honest), of whom its ledger lets 1;"
        in dict(seen.facts)["taken for honest"]
    )


@pytest.mark.long
def test_the_quorum_is_not_loosened(tmp_path: Path) -> None:
    """The page would show the noise of more sites than the run has to keep in a sum."""
    from dataclasses import replace

    from clients.runtime import gate
    from fedlite.guard import policy as site_policy

    four, home = Hospitals(tmp_path), tmp_path / FIRST
    content = bundle(four.keys)
    read = bundles.read(content)
    with pytest.raises(ValueError, match=r"--at-most federation\.quorum=4: .* stays as it is"):
        approval.loosened(read, ["federation.quorum=4"])
    approval.approve(home, approval.review(home, read, {}), "me")
    policy = site_policy.load(home / "site.toml")
    (known,) = policy.bundles
    loose = replace(policy, bundles=(replace(known, at_most={"federation.quorum": 4}),))
    run = {"run.id": "0" * 16}
    assert gate.check(loose, content, run | {"federation.quorum": 3}).config["run.id"] == "0" * 16
    for other in (2, 4):
        with pytest.raises(
            gate.NotApproved, match=r"^federation\.quorum: must be the approved 3, g"
        ):
            gate.check(loose, content, run | {"federation.quorum": other})


def test_a_site_of_local_noise_is_told_nothing_of_others(tmp_path: Path) -> None:
    init(tmp_path, FIRST)
    path = tmp_path / FIRST / "site.toml"
    path.write_text(path.read_text().replace('["record-shared"]', '["record"]'))
    given = tmp_path / "plan.fab"
    given.write_bytes(made())
    seen = approval.review(tmp_path / FIRST, bundles.read(given), {})
    assert not {"shares noise with", "taken for honest", "if all others collude"} & {
        *dict(seen.facts)
    }
    assert json.loads(json.dumps(seen.to_dict()))["budget"]["collusion"] == 0.0


@pytest.mark.long
def test_a_bundle_that_says_another_length_than_its_model_has_is_refused_there(
    tmp_path: Path,
) -> None:
    """A ledger would hold what is not true, and rounding be charged for fewer values."""
    from fedlite import plan as plans

    four = Hospitals(tmp_path)
    assert four.plan.privacy.coordinates == COORDINATES
    wrong = rf"^privacy\.coordinates: must be the {VALUES} values that a round .* sums, got 40"
    with pytest.raises(ValueError, match=wrong):
        plans.of(four.plan, (1, 8, 8), 10)
    given = tmp_path / "plan.fab"
    given.write_bytes(bundle(four.keys, coordinates=COORDINATES))
    (why,) = approval.review(tmp_path / FIRST, bundles.read(given), {}).refused
    assert why.startswith("privacy.coordinates: must be the ")
