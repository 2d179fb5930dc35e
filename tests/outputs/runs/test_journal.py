"""The journal: torn lines cost one receipt, never the others."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from qkatlas.outputs.places.local_folder import LocalFolder
from qkatlas.outputs.runs.journal import Journal, Receipt
from qkatlas.outputs.runs.measures import Measures
from qkatlas.outputs.runs.part import Part


def receipt(name: str, inputs: str = "i") -> Receipt:
    part = Part(path=f"topk/{name}.parquet", rows=3, bytes=10, sha256="0" * 64)
    return Receipt(
        shard=name, inputs=inputs, parts=(part,), measures=Measures(scores=9, more={"of another version": [1]})
    )


def test_receipts_come_back_newest_last_and_one_a_shard(tmp_path: Path) -> None:
    journal = Journal(LocalFolder(tmp_path).log("receipts.jsonl"))
    assert journal.read() == {}
    for entry in (receipt("a"), receipt("b"), receipt("a", "other")):
        journal.append(entry)
    assert list(journal.read()) == ["b", "a"]
    assert journal.read()["a"] == receipt("a", "other")


@settings(max_examples=50, deadline=None)  # a loaded machine is slow to sync a file
@given(cut=st.integers(0, 400), after=st.booleans())
def test_a_journal_cut_anywhere_keeps_every_whole_receipt(tmp_path_factory, cut: int, after: bool) -> None:
    file = tmp_path_factory.mktemp("journal") / "receipts.jsonl"
    journal = Journal(LocalFolder(file.parent).log(file.name))
    ends = []
    for name in "abc":
        journal.append(receipt(name))
        ends.append(file.stat().st_size)
    cut = min(cut, ends[-1])
    file.write_bytes(file.read_bytes()[:cut])
    # A receipt is whole once its last brace is there; the newline after it adds nothing.
    whole = [name for name, end in zip("abc", ends, strict=True) if end - 1 <= cut]
    assert list(journal.read()) == whole
    if after:
        journal.append(receipt("d"))
        assert list(journal.read()) == [*whole, "d"]
