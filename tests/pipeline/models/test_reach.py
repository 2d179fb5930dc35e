"""Which keys a query reads."""

from __future__ import annotations

import pytest

from qkatlas.pipeline.models.reach import reach


@pytest.mark.parametrize(("length", "window"), [(1, None), (5, None), (5, 1), (5, 3), (5, 5), (3, 9)])
def test_a_query_reads_itself_and_what_its_window_holds_before_it(length: int, window: int | None) -> None:
    found = reach(length, window).tolist()
    for query in range(length):
        first = 0 if window is None else max(0, query - window + 1)
        assert [key for key in range(length) if found[query][key]] == list(range(first, query + 1))
