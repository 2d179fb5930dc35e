"""Logs in an object store: a receipt is there once `append` returns, and costs no other when it is lost."""

from __future__ import annotations

import uuid

import pytest
from support.object_store import Server

from qkatlas.outputs.places import object_log
from qkatlas.outputs.places.object_folder import ObjectFolder
from qkatlas.outputs.runs.journal import Journal, Receipt


@pytest.fixture
def folder(store_server: Server) -> ObjectFolder:
    return ObjectFolder(store_server.uri(f"atlas/logs/{uuid.uuid4().hex}"))


def receipts(folder: ObjectFolder, names: str) -> Journal:
    journal = Journal(folder.log("_state/receipts.jsonl"))
    for name in names:
        journal.append(Receipt(shard=name, inputs="i", parts=()))
    return journal


def test_segments_roll_over_and_a_torn_or_missing_one_costs_its_own_lines(
    folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_log, "SEGMENT_LINES", 3)
    receipts(folder, "abcdefgh")
    receipts(folder, "ij")
    segments = sorted(folder.listed("_state/receipts"))
    assert len(segments) == 4
    assert list(receipts(folder, "").read()) == list("abcdefghij")
    folder.write(segments[0], folder.read(segments[0])[:-20])
    folder.remove(segments[1])
    assert list(receipts(folder, "").read()) == list("abghij")


def test_a_receipt_that_could_not_be_written_does_not_come_with_the_next(
    store_server: Server, folder: ObjectFolder
) -> None:
    journal = receipts(folder, "a")
    with store_server.faults(lambda method, target: "403"), pytest.raises(OSError, match="ACCESS_DENIED"):
        journal.append(Receipt(shard="b", inputs="i", parts=()))
    journal.append(Receipt(shard="c", inputs="i", parts=()))
    assert list(journal.read()) == ["a", "c"]


def test_a_later_driver_has_the_last_word(folder: ObjectFolder) -> None:
    for inputs in ("old", "new"):
        Journal(folder.log("_state/receipts.jsonl")).append(Receipt(shard="a", inputs=inputs, parts=()))
    assert receipts(folder, "").read()["a"].inputs == "new"
