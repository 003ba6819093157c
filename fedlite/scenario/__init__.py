"""The scenario: everything that defines a federation, typed and checked before anything runs.

A scenario is a TOML file with one table per section of `whole.Scenario`. Under `flwr run` the same
keys are the dotted run-config keys (`federation.rounds`). Unknown keys, wrong types and values
outside their rule are all reported at once, one line each, with the mend.
"""

from fedlite.scenario.keys import (
    NUMERIC,
    Federation,
    Inference,
    Link,
    Model,
    Privacy,
    Report,
    Selection,
    Simulation,
    Task,
    Training,
)
from fedlite.scenario.network import Network
from fedlite.scenario.reading import (
    from_dict,
    from_run_config,
    load,
    nest,
    overridden,
    read,
    with_values,
)
from fedlite.scenario.records import Data
from fedlite.scenario.whole import (
    CODE,
    OPTIONS,
    PATHS,
    Scenario,
    ScenarioError,
    is_path,
    options_of,
    own_code,
    own_stamps,
)

__all__ = [
    "CODE",
    "NUMERIC",
    "OPTIONS",
    "PATHS",
    "Data",
    "Federation",
    "Inference",
    "Link",
    "Model",
    "Network",
    "Privacy",
    "Report",
    "Scenario",
    "ScenarioError",
    "Selection",
    "Simulation",
    "Task",
    "Training",
    "from_dict",
    "from_run_config",
    "is_path",
    "load",
    "nest",
    "options_of",
    "overridden",
    "own_code",
    "own_stamps",
    "read",
    "with_values",
]
