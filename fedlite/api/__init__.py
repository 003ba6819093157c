"""fedlite from Python: what the commands do, as functions; `import fedlite` offers them by name.

>>> import fedlite
>>> scenario = fedlite.load_scenario("quickstart", set={"federation.rounds": 5})
>>> scenario.federation.rounds, scenario.privacy.epsilon
(5, 3.0)

`run = fedlite.simulate(scenario)` then trains it, and `run.model()` is what it trained.
"""

from fedlite.api.many import Compared, Sweep, compare, sweep
from fedlite.api.run import Run, load
from fedlite.api.starting import audit_ledgers, load_scenario, resume, simulate
from fedlite.inference.bundle import Bundle, load as load_bundle

__all__ = [
    "Bundle",
    "Compared",
    "Run",
    "Sweep",
    "audit_ledgers",
    "compare",
    "load",
    "load_bundle",
    "load_scenario",
    "resume",
    "simulate",
    "sweep",
]
