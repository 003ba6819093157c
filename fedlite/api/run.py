"""A finished run, by its directory: its figures, its picture, its model and what that answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlite.reporting.flat import Row, row_of
from fedlite.scenario import Scenario, load as load_toml

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from fedlite.audit import Audit
    from fedlite.models import Model


@dataclass(frozen=True)
class Run:
    """A finished run; a notebook shows what it came to."""

    directory: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; raises ValueError when the run has not finished."""
        from fedlite.reporting.record import read_summary

        return read_summary(self.directory)

    @cached_property
    def rounds(self) -> list[Row]:
        """A flat row a round, oldest first: `pandas.DataFrame(run.rounds)` has a column a figure.

        Scores are called as in `accuracy.deep`; where a record names sites, a row has their number.
        """
        from fedlite.reporting.record import read_rounds

        return [row_of(record) for record in read_rounds(self.directory)]

    @cached_property
    def scenario(self) -> Scenario:
        """The scenario, with everything settled that was left open."""
        return load_toml(self.directory / "scenario.toml")

    @property
    def report(self) -> Path:
        """The page of the run, for a browser."""
        return self.directory / "report.html"

    def model(self) -> Model:
        """Return the released model, in evaluation mode.

        It takes float32 [b, *shape] through `model.prepare` and answers with a tuple of the answers
        of its branches, the deep one last, each float32 [b, classes]. Where the run's scenario
        names a file for its model, that file is run: ask only for models of runs that you trust.
        """
        from fedlite.evaluation import open_model

        return open_model(self.directory).model

    def answers(self, x: ArrayLike, *, branch: str = "deep") -> NDArray[np.float32]:
        """Return the model's answers, float32 [n, classes], for records [n, *shape].

        They are logits, and of a regression numbers in the targets' own units. The records are
        scaled as those that it was trained on. branch: deep or shallow.

        Raises ValueError for records of another shape, and for a branch that is not there.
        """
        import numpy as np

        from fedlite.data import Dataset
        from fedlite.evaluation import open_model
        from fedlite.evaluation.predictions import in_units

        trained = open_model(self.directory)
        if branch not in trained.branches:
            raise ValueError(
                f"branch: must be one of {', '.join(trained.branches)}, got {branch!r}"
            )
        records = np.ascontiguousarray(x, np.float32)
        if records.shape[1:] != tuple(trained.model.shape) or records.ndim < 2:
            wanted = ", ".join(map(str, ("n", *trained.model.shape)))
            raise ValueError(
                f"x: must have the shape [{wanted}], got {list(records.shape)}; reshape it, a "
                "record a row"
            )
        answers = trained.answers(Dataset(records, np.zeros(len(records), np.int64)))[branch]
        return in_units(answers, trained.scale).astype(np.float32)

    def predict(self, x: ArrayLike, *, branch: str = "deep") -> NDArray[np.int64]:
        """Return the number of the most likely class of each record, int64 [n]; see `answers`.

        Raises ValueError where the task is not to tell classes apart.
        """
        import numpy as np

        if not self.scenario.classifies:
            raise ValueError(
                f"predict: tells classes, and task.name is {self.scenario.task.name!r}; "
                "run.answers(x) has the numbers"
            )
        numbers: NDArray[np.int64] = self.answers(x, branch=branch).argmax(1).astype(np.int64)
        return numbers

    def figure(self) -> Figure:
        """Return the picture of the run's rounds, as in its report; a notebook shows it."""
        from fedlite.reporting.drawing import drawn
        from fedlite.reporting.figures import rounds_figure
        from fedlite.reporting.report import load as load_record

        return drawn(lambda: rounds_figure(*load_record(self.directory)))

    def audit(self) -> Audit:
        """Check the run's ledgers from its files alone; see `fedlite.audit_ledgers`."""
        from fedlite.audit import audit

        return audit([self.directory])

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what the run came to, and its picture."""
        from fedlite.reporting import cell

        return cell.of_run(self.directory)


def load(directory: str | Path) -> Run:
    """Return a finished run by its directory.

    Raises ValueError, with the mend, where the directory holds none.
    """
    from fedlite.reporting.report import load as load_record

    load_record(Path(directory))
    return Run(Path(directory).absolute())
