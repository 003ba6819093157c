"""The released model goes to those whose updates were used, whoever else is there or fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import Message

from clients import final
from fedlite import flower
from fedlite.deployment import journal
from fedlite.deployment.journal import Journal
from fedlite.guard.guardian import Decline
from fedlite.messages import Code
from server import delivery
from tests.server.conftest import Member, N
from tests.server.hostile import World


def takes(member: Member) -> None:
    """Let a member keep the model in a folder of its own, as the app does."""
    member.site.path = member.site.path.with_suffix("") / "state.safetensors"
    plain = member.reply

    def reply(message: Message) -> list[Message]:
        if message.metadata.group_id != delivery.NAME:
            return plain(message)
        try:
            final.keep(member.site, flower.unwrap(message))
        except Decline as decline:
            return [flower.decline(decline.code, message)]
        return [flower.answer(member.hello or b"", message)]

    member.reply = reply  # type: ignore[method-assign]


def silent(member: Any, message: Message, instruction: Any) -> list[Message]:
    return []


def test_every_site_that_was_used_holds_the_released_model(world: World, tmp_path: Path) -> None:
    # The last two models are averaged: what sites hold by the rounds is another one.
    some = world(sites=4, federation={"rounds": 4, "average_last": 0.5, "deliver": True})
    for member in some.members:
        takes(member)
    some.members[1].always = silent
    rounds = some.play()
    # One that answers with a code, as its disk is full.
    full = some.members[3]

    def refuse(message: Message) -> list[Message]:
        return [flower.decline(Code.FAILED, message)]

    full.reply = refuse  # type: ignore[method-assign]
    told = delivery.deliver(rounds, Journal(tmp_path / "audit"))
    released = rounds.point.state.released
    assert told["sites"] == ["site-1", "site-3"] and told["of"] == 3
    assert 3 * 4 * N < told["bytes_down"] < 3 * (4 * N + 200)
    for member in (some.members[0], some.members[2]):
        held = final.read(member.site.path.parent, N)
        assert held.tobytes() == released.tobytes()
        assert held.tobytes() != rounds.point.broadcast.replica.tobytes()
    assert not (some.members[1].site.path.parent / final.FILE).exists()
    (line,) = journal.read(tmp_path / "audit")
    assert (line["action"], line["sites"]) == ("deliver", "site-1, site-3")
    # After a crash, once more: the same.
    assert delivery.deliver(rounds, Journal(tmp_path / "audit"))["sites"] == told["sites"]


def test_a_run_without_anybody_left_ends(world: World, tmp_path: Path) -> None:
    some = world(sites=2, federation={"deliver": True})
    rounds = some.play()
    some.grid.members.clear()
    told = delivery.deliver(rounds, Journal(tmp_path / "audit"))
    assert told == {"sites": [], "of": 0, "bytes_down": 0}
