"""Flower's ClientApp: three questions, `query` (who are you), `train` (take part in a round) and,
after the last round, `evaluate` (how often would an early answer harm).

Whatever goes wrong inside leaves the site as a code. The text of an exception may quote a record
or a path, so it stays in the site's own log.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import counting, final
from clients.opening import (
    forget,
    open_deployed_site,
    open_simulated_site,
    state_directory,
    together_of,
)
from clients.site import Site
from fedlite import compression, flower
from fedlite.guard import egress
from fedlite.guard.guardian import Decline
from fedlite.guard.policy import DataSet
from fedlite.guard.remote import of_this_process
from fedlite.messages import Code, Hello, Instruction, Reply
from fedlite.registry import begin_at, explain, place_of
from fedlite.scenario import Scenario, ScenarioError, from_run_config
from fedlite.secure.messages import Note, is_note
from fedlite.steps import Step, alone
from fedlite.storage import is_full
from fedlite.training.share import Asked, settle_process

log = logging.getLogger("fedlite.site")

app = ClientApp()

# Preparing a site (loading, fixed features, calibrating the noise) takes longer than most rounds.
_open: OrderedDict[tuple[int, int, str], Site] = OrderedDict()
# Sites that are open at once: so many, and more as long as their records take little memory.
_KEEP, _KEEP_BYTES = 64, 512_000_000
_held = 0


def _site(context: Context) -> Site:
    given = str(context.node_config.get("state-path", ""))
    # A run's number comes from its scenario, so two runs of one scenario differ only by the path.
    key = (context.run_id, context.node_id, given)
    if key not in _open:
        _open[key] = _opened(context, given)
        _make_room(_bytes(_open[key]))
    _open.move_to_end(key)
    return _open[key]


def _make_room(more: int) -> None:
    """Close the sites that were asked longest ago where the open ones hold too much."""
    global _held
    _held = more + (_held if len(_open) > 1 else 0)
    while len(_open) > _KEEP and _held > _KEEP_BYTES:
        _held -= _bytes(_open.popitem(last=False)[1])


def close_all() -> None:
    """Close the sites that are open; asked again, each is opened from its disk."""
    global _held
    _open.clear()
    _held = 0
    forget()


def _bytes(site: Site) -> int:
    return int(site.learner.inputs.nbytes)


@lru_cache(maxsize=1)
def _read(settings: str) -> Scenario:
    """Return the scenario of a run config, as JSON: that of all simulated sites is the same."""
    return from_run_config(json.loads(settings))


def _opened(context: Context, given: str) -> Site:
    """Build the site: a deployed one when its own process, and never its server, says which."""
    told = context.node_config
    if "site" in told:
        # The user's own files lie in the bundle that this process serves, beside this folder.
        begin_at(Path(__file__).resolve().parents[1])
    scenario = _read(json.dumps(dict(context.run_config)))
    settle_process(int(told.get("threads", 1)))
    if "site" in told:
        chosen = DataSet(**json.loads(str(told["data"])))
        folder, guardian = Path(str(told["folder"])), of_this_process()
        return open_deployed_site(scenario, str(told["site"]), chosen, folder, guardian)
    if "partition-id" not in context.node_config:
        raise ScenarioError(
            "node config: needs partition-id, which Flower's simulation gives, or site, which "
            "`fedlite site start` gives; got neither"
        )
    directory = Path(given) if given else state_directory(context.run_config, context.run_id)
    return open_simulated_site(scenario, int(context.node_config["partition-id"]), directory)


Outgoing = Hello | Reply | Note


def _guarded(
    message: Message,
    context: Context,
    work: Callable[[Site], Outgoing | Generator[Step, Any, Outgoing]],
) -> Generator[Step, Any, Message]:
    """Answer with what `work` returns, if the site's policy lets it leave, or else with a code.

    What `work` asks of others is asked of whoever runs this.
    """
    name = "a site"
    try:
        site = _site(context)
        name = site.name
        told = work(site)
        if isinstance(told, Generator):
            told = yield from told
        return site.guardian.send(told, message)
    except Decline as decline:
        log.warning("%s declined (%s): %s", name, decline.code, decline)
        code = decline.code
    except egress.NotAllowed as error:
        log.error("%s: %s", name, error)
        code = Code.POLICY
    except ScenarioError as error:
        log.error("%s: %s", name, error)
        code = Code.CONFIG
    except ValueError as error:
        log.error("%s: %s", name, explain(error))
        code = Code.DATA
    except OSError as error:
        # A simulated site's disk is its server's, which is about to say the same once for all.
        own = "site" in context.node_config or context.run_config.get("simulation.sites")
        log.log(
            logging.ERROR if own or not is_full(error) else logging.DEBUG, "%s: %s", name, error
        )
        code = Code.FAILED
    except Exception as error:
        if place_of(error):
            log.error("%s: %s", name, explain(error))
        else:
            log.exception("the round failed at this site")
        code = Code.FAILED
    return egress.send(code, message, None, "none")


@app.query()
def hello(message: Message, context: Context) -> Message:
    """Answer with the site's name and the layout of the model that it would train.

    Asked with the run's released model, keep that for the site's operator.
    """

    def work(site: Site) -> Hello:
        if site.scenario.federation.deliver:
            final.keep(site, flower.unwrap(message))
        return site.hello()

    return alone(_guarded(message, context, work))


@app.evaluate()
def count(message: Message, context: Context) -> Message:
    """Count on the calibration records what the released model would answer early, and tell that.

    Asked once a run, after its last round.
    """
    counted = partial(_counted, message)
    return alone(_guarded(message, context, counted))


def _counted(message: Message, site: Site) -> Reply:
    return counting.counted(site, flower.unwrap(message))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round and answer with one update, or take a step of a sum of updates."""
    return alone(_trained(message, context))


def _trained(message: Message, context: Context) -> Generator[Step, Any, Message]:
    def work(site: Site) -> Note | Generator[Step, Any, Reply]:
        try:
            blob = flower.unwrap(message)
            if is_note(blob):
                return site.step(Note.decode(blob))
            instruction = Instruction.decode(blob)
        except ValueError as error:
            raise Decline(Code.BAD_INSTRUCTION, str(error)) from None
        return site.part(instruction)

    return _guarded(message, context, work)


def train_many(asked: Sequence[tuple[Message, Context]]) -> tuple[list[Message], int]:
    """Answer as `train` does for each of several simulated sites; say how many trained together.

    No site may be asked twice. Each reserves what its round costs before any of them trains, and
    the file of each is held until its answer is made. Their updates are compressed together, too.
    """
    rounds = [_trained(message, context) for message, context in asked]
    replies: dict[int, Message] = {}
    waiting, together = dict[int, Step](), 0

    def go_on(at: int, step: Callable[[], Step]) -> None:
        try:
            waiting[at] = step()
        except StopIteration as ended:
            replies[at] = ended.value

    for at, one in enumerate(rounds):
        go_on(at, partial(next, one))
    while waiting:
        learning = {at: one for at, one in waiting.items() if isinstance(one, Asked)}
        if learning:
            plan = next(iter(learning.values())).learner.plan
            mine = {at: one for at, one in learning.items() if one.learner.plan is plan}
            made: Sequence[Any]
            made, many = together_of(plan).shares(list(mine.values()))
            places, together = list(mine), together + many
        else:
            places, made = _packed(waiting)
        for at, end in zip(places, made, strict=True):
            del waiting[at]
            if isinstance(end, Exception):
                go_on(at, partial(rounds[at].throw, end))
            else:
                go_on(at, partial(rounds[at].send, end))
    return [replies[at] for at in range(len(rounds))], together


def _packed(waiting: Mapping[int, Step]) -> tuple[list[int], Sequence[bytes | Exception]]:
    """Return some of those that wait for their bytes, all of one compressor, and these bytes."""
    packing = {at: one for at, one in waiting.items() if isinstance(one, compression.Packing)}
    compressor = next(iter(packing.values())).compressor
    mine = {at: one for at, one in packing.items() if one.compressor is compressor}
    changes, contexts = zip(*((one.change, one.context) for one in mine.values()), strict=True)
    return list(mine), compression.compress_many(compressor, changes, contexts)
