"""Raising a ceiling, as two people do it: the owner signs, the operator applies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedlite.commands.main import app
from fedlite.guard import keeping as commands, policy_file
from fedlite.guard.folder import Home, open_home
from fedlite.guard.policy import DataSet, SitePolicy
from fedlite.guard.register import Kept, Register
from fedlite.identity import keys
from fedlite.privacy import RecordMechanism
from fedlite.privacy.budget import Account, Budget
from fedlite.privacy.ledger import Ledger, LedgerPoisoned, forget, read
from fedlite.privacy.ledger.files import marker

MECHANISM = RecordMechanism(0.1, 13.2, 1.0, steps=90, expected_batch=10)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["site", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a site's folder with a ledger whose ceiling is 1, and an owner's key beside it."""
    code, output = run("owner", "--key", tmp_path / "owner.pem", "--json")
    assert code == 0
    owner = json.loads(output)["owner"]
    assert run("owner", "--key", tmp_path / "owner.pem") == (0, f'owner = "{owner}"\n')
    mine = SitePolicy(site="s", epsilon=1.0, owner=owner)
    home = open_home(tmp_path / "home", "s", "digits", mine)
    with Ledger.open(home.ledger, home.key()) as ledger:
        Budget(ledger).begin(
            "ab" * 8,
            MECHANISM,
            mine,
            asked_epsilon=3.0,
            delta=1e-5,
            dataset="digits",
            commitment="cd" * 32,
            code="ef" * 32,
        )
    return home.path


def test_the_owner_signs_and_the_operator_applies(tmp_path: Path, site: Path) -> None:
    ledger, out = site / "ledgers" / "digits.jsonl", tmp_path / "grant.json"
    make = ("grant", ledger, "--key", tmp_path / "owner.pem", "--epsilon", "2.5", "--out", out)
    assert run(*make)[0] == 0
    code, output = run(*make)
    assert code == 2 and "never overwritten" in output
    code, output = run("raise", site, out)
    # The operator's own file still says 1: the grant would be used up for nothing.
    assert code == 2 and "allows less than the grant in epsilon" in output
    assert Account.of(read(ledger)).policy.epsilon == 1.0
    policy_file.write(site / "site.toml", SitePolicy(site="s", epsilon=9.0))
    assert run("raise", site, out) == (0, "epsilon 2.5 at delta 1e-05 is in force\n")
    assert Account.of(read(ledger)).policy.epsilon == 2.5
    code, output = run("raise", site, out)
    assert code == 2 and "grant" in output


@pytest.mark.long
def test_another_key_another_ledger_and_other_files_are_refused(tmp_path: Path, site: Path) -> None:
    ledger = site / "ledgers" / "digits.jsonl"
    run("owner", "--key", tmp_path / "thief.pem")
    code, output = run("grant", ledger, "--key", tmp_path / "thief.pem", "--epsilon", "9")
    assert code == 2 and "owner key: must be" in output
    code, output = run("grant", ledger, "--key", tmp_path / "owner.pem", "--epsilon", "0.5")
    assert code == 2 and "needs no grant" in output
    out = tmp_path / "g.json"
    run("grant", ledger, "--key", tmp_path / "owner.pem", "--epsilon", "2", "--out", out)
    grant = json.loads(out.read_text())
    policy_file.write(site / "site.toml", SitePolicy(site="s", epsilon=90.0))
    for change in (
        {"grant": "00" * 64},
        {"ledger": "00" * 32},
        {"dataset": "../../home/ledgers/digits"},
        {"policy": grant["policy"] | {"epsilon": 50.0}},
        {"extra": 1},
    ):
        out.write_text(json.dumps(grant | change))
        code, output = run("raise", site, out)
        assert code == 2, (change, output)
    for text in ("", "[]", '"x"', "{}", "7", '{"policy": 1}', json.dumps(grant | {"policy": 1})):
        out.write_text(text)
        code, output = run("raise", site, out)
        assert code == 2 and "is no grant" in output
    assert Account.of(read(ledger)).policy.epsilon == 1.0


@pytest.mark.long
def test_a_rotated_key_signs_every_later_row_also_after_an_interruption(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, before = site / "ledgers" / "digits.jsonl", (site / "keys" / "ledger.pem").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(commands.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("cut")))
        assert run("rotate", site)[0] == 1
    assert (site / "keys" / "ledger.pem").read_bytes() == before
    code, output = run("rotate", site, "--json")
    assert code == 0 and json.loads(output)["ledgers"] == 1
    rows = read(ledger)
    # The last row is the new key's own: what a server is shown next must be signed by it.
    assert [row.kind for row in rows] == ["genesis", "key-rotate", "policy"]
    assert rows[1].body["key"] == json.loads(output)["key"]
    assert not (site / "keys" / "ledger.next.pem").exists()
    code, output = run("recover", site, "nosuch")
    assert code == 2 and "those here: digits" in output
    with Ledger.open(ledger, keys.load(site / "keys" / "ledger.pem")) as opened:
        Budget(opened).reserve("ab" * 8, 1, 1, "00" * 8)
    assert CliRunner().invoke(app, ["audit", "ledgers", str(site)]).exit_code == 0


def test_a_poisoned_ledger_works_again_once_it_is_recovered(site: Path) -> None:
    ledger = site / "ledgers" / "digits.jsonl"
    Path(marker(str(ledger))).write_text("write failed")
    forget(ledger)
    key = keys.load(site / "keys" / "ledger.pem")
    with pytest.raises(LedgerPoisoned, match="fedlite site recover"):
        Ledger.open(ledger, key)
    assert run("recover", site, "digits") == (0, "digits: 1 rows verified and written anew\n")
    with Ledger.open(ledger, key) as opened:
        Budget(opened).reserve("ab" * 8, 1, 1, "00" * 8)


def test_only_the_owner_gives_records_to_another_site(tmp_path: Path) -> None:
    owner = tmp_path / "owner.pem"
    public = commands.owner_key(owner)
    homes = []
    for name in ("a", "b"):
        homes.append(tmp_path / name)
        homes[-1].mkdir()
        (homes[-1] / "own.csv").write_text("x,y\n1,2\n")
        chosen = DataSet("scans", "csv", path="own.csv", target="y")
        told = SitePolicy(site=name, owner=public, data=(chosen,))
        policy_file.write(homes[-1] / "site.toml", told)
    register, (first, second) = Register.own(), (Home(h, h.name, "scans") for h in homes)
    register.claim(first, chosen, public)
    with pytest.raises(ValueError, match="nothing to adopt"):
        commands.adopt(homes[0], "scans", None)
    with pytest.raises(ValueError, match=f"--key: must be the data owner's.*{public}"):
        commands.adopt(homes[1], "scans", None)
    with pytest.raises(Kept):
        register.claim(second, chosen, public)
    assert commands.adopt(homes[1], "scans", owner) == [str(homes[0])]
    register.claim(second, chosen, public)
    with pytest.raises(Kept):
        register.claim(first, chosen, public)
