from __future__ import annotations

from dataclasses import fields

import pandas

from fedlite.reporting.flat import columns_of, row_of
from fedlite.reporting.record import RoundRecord


def test_a_row_is_flat_whole_and_taken_by_pandas() -> None:
    first = RoundRecord(1, 2, dropped={"a": "data"}, joined=["a", "b"], bytes_up=7)
    figures = {"deep": 0.5, "shallow": 0.25}
    second = RoundRecord(2, 3, accuracy=figures, scores={"r2": {"deep": 0.75}}, epsilon=0.5)
    rows = [row_of(first), row_of(second)]
    assert all(isinstance(v, int | float | None) for row in rows for v in row.values())
    table = pandas.DataFrame(rows)
    assert list(table["round"]) == [1, 2]
    assert table["accuracy.deep"].isna().tolist() == [True, False]
    assert table["r2.deep"].tolist()[1] == 0.75
    assert table["dropped"].tolist() == [1, 0] and table["joined"].tolist() == [2, 0]
    assert table["epsilon"].isna().tolist() == [True, False]
    assert set(columns_of(rows)) == set(table.columns)
    # Nothing that a record says is lost, but for names of sites.
    told = {name.partition(".")[0] for name in table.columns}
    assert {field.name for field in fields(RoundRecord)} - told == {"auc", "scores"}
