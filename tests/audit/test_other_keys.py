"""What a forger can do who makes a key of his own: only the known key tells it."""

from __future__ import annotations

from pathlib import Path

from fedlite.audit import audit
from tests.audit.forging import cut_and_tell, cut_books, cut_record, edit, rules, sign_anew
from tests.privacy.federation import World


def cut_to_one_round_with_another_key(world: World) -> None:
    cut_books(world, 1)
    cut_record(world, 1)
    sign_anew(world)


def test_another_key_is_found_by_what_the_sites_have_kept(world: World) -> None:
    cut_and_tell(world)
    sign_anew(world)
    assert rules(world) == {"witness-missing-line"}


def test_nor_do_the_lines_that_were_replaced_help_in_a_file_of_their_own(world: World) -> None:
    cut_and_tell(world)
    aside = world.root / "aside.jsonl"
    aside.write_bytes(world.server.path.read_bytes())
    sign_anew(world)
    found = audit([world.run, aside])
    assert {issue.rule for issue in found.findings} == {"closed-otherwise"}


def test_a_run_of_one_round_closed_with_another_key_is_found_by_the_known_key(
    world: World,
) -> None:
    public = world.server.public
    cut_to_one_round_with_another_key(world)
    # The sites have kept no signature of the server yet: this is all that such a forger can do.
    found = audit([world.run])
    assert found.clean
    (note,) = [issue for issue in found.notes if issue.rule == "server-key"]
    assert world.server.public in note.text
    assert rules(world, public) == {"other-witness"}


def test_sites_that_list_their_server_are_enough_to_find_another_key(tmp_path: Path) -> None:
    world = World(tmp_path, rounds=3, listed=True)
    assert rules(world) == set()
    cut_to_one_round_with_another_key(world)
    assert rules(world) == {"other-witness"}


def test_with_another_key_anything_that_no_ledger_holds_can_be_claimed(world: World) -> None:
    public = world.server.public
    (world.run / "model.safetensors").write_bytes(b"another")
    edit(world, lambda summary: summary.update(accuracy={"deep": 1.0}))
    cut_to_one_round_with_another_key(world)
    assert rules(world) == set()
    assert rules(world, public) == {"other-witness"}
