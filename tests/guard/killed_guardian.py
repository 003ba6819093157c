"""A site's own process for one coordinator, without the coordinator: rounds until it is killed.

Arguments: the site's folder, the run, its settings (JSON). Prints a line a round: what was done.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from fedlite.guard import guardian
from fedlite.guard.guardian import Decline
from fedlite.messages import Instruction, site_id
from fedlite.scenario import from_dict


def main() -> None:
    home, run, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    scenario = from_dict(settings)
    guard = guardian.deployed(scenario, home, run)
    print("ready", flush=True)
    for number in range(1, scenario.federation.rounds + 1):
        asked = Instruction(bytes.fromhex(run), number, site_id("a"), 0, bytes(8), ())
        frame = b"frame" + os.urandom(8)
        try:
            guard.admit(asked)
            guard.reserve(asked)
            head = guard.release(asked, frame)
        except Decline as decline:
            print("declined", decline.code.value, flush=True)
            return
        assert head is not None
        # It has left: whoever reads this line holds it.
        print("sent", number, frame.hex(), head.seq, head.hash.hex(), flush=True)
    print("over", flush=True)


if __name__ == "__main__":
    main()
