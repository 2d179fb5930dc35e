"""Token frequencies: read in order of their counts, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkatlas.jobs.inputs.frequencies import Frequencies, listed


def test_the_most_frequent_tokens_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "frequencies.csv"
    file.write_text('token,id,count\n"a ""b"",\nc",7,5\nd,2,5\n\ufffd,9,100\ne,1,0\n', encoding="utf-8")
    assert Frequencies.read(file).first(2).token_ids == (9, 2)
    assert Frequencies.read(file).first(3).token_ids == (9, 2, 7)
    assert Frequencies.read(file).first(2).texts == ("\ufffd", "d")
    assert Frequencies.read(file).texts == ("\ufffd", "d", 'a "b",\nc', "e")
    some = Frequencies.read(file).first(99)
    assert some.token_ids == (9, 2, 7, 1)
    some.require_inside(10)
    with pytest.raises(ValueError, match="names token 9"):
        some.require_inside(9)
    texts = ["", "e", "d", *"?????????"]
    assert some.mismatch(texts) is None
    assert str(some.mismatch(["?"] * 10)).startswith("4 of 4 texts")


def test_how_many_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "frequencies.csv"
    file.write_text("token,id,count\na,4,1\nb,5,2\nc,6,3\n", encoding="utf-8")
    read = Frequencies.read(file)
    assert listed(None, None, 2) is None
    assert listed(read, None) == read
    for most, default, expected in ((None, 2, (6, 5)), (1, 2, (6,)), (3, 2, (6, 5, 4)), (9, None, (6, 5, 4))):
        found = listed(read, most, default)
        assert found is not None
        assert found.token_ids == expected
    with pytest.raises(ValueError, match="--most-frequent 5 needs the counts; give --frequencies a CSV"):
        listed(None, 5)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "first line"),
        (b"a,b\n1,2\n", "first line"),
        (b"token,id,count\na,x,1\n", "line 2"),
        (b"token,id,count\na,1\n", "line 2"),
        (b"token,id,count\na,-1,1\n", "line 2"),
        (b"token,id,count\na,1,1\nb,1,1\n", "twice"),
        (b"token,id,count\n", "lists no token"),
        (b'token,id,count\n"a,1,1\n', "malformed"),
        (None, "cannot be read"),
    ],
)
def test_malformed_frequencies_are_one_line(content: bytes | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "frequencies.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="--frequencies") as refusal:
        Frequencies.read(file)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)
