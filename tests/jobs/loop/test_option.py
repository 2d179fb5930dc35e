"""Options on the fields of a spec: what is declared there is what is checked, and what a command line is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

from qkatlas.jobs.cli.command import parameters, taken
from qkatlas.jobs.cli.values import InputFile
from qkatlas.jobs.loop.option import check_options, option, options_of


def numbers(flag: str, text: str) -> tuple[int, ...]:
    if not text.replace(",", "").isdigit():
        raise ValueError(f"{flag} {text!r} is malformed; write 1,2")
    return tuple(map(int, text.split(",")))


@dataclass(frozen=True, kw_only=True)
class Spec:
    name: str = option(argument=True, metavar="NAME", help="What it is called.")
    colour: str = option("red", choices=("red", "blue"), help="Its colour.")
    top_k: int = option(3, least=1, remedy="keep at least one", unit="keys", help="Keys.", in_plan=True)
    bins: int = option(5, least=1, most=9, help="Bins.")
    shape: str | None = option(None, choices=("round", "flat"), help="Its shape.")
    limit: float | None = option(None, flag="--gamma", least=0, help="A limit.", shown_default="none")
    sizes: tuple[int, ...] = option((1, 2), metavar="LIST", parse=numbers, help="Sizes.", shown_default="1,2")
    words: tuple[str, ...] | None = option(None, read=lambda file: tuple(file.read_text().split()), help="Words.")
    loud: bool = option(False, help="Be loud.")
    loss: bool = option(True, help="Losses too.")
    seed: int = option(0, common=True, least=0, help="Seed.")
    hidden: int = 7

    def __post_init__(self) -> None:
        check_options(self)


def command() -> click.Command:
    return click.Command("toy", params=parameters(options_of(Spec)), callback=lambda **given: given)


def spec_of(*arguments: str) -> Spec:
    return Spec(**taken(Spec, command().make_context("toy", ["x", *arguments]).params))


def test_options_are_the_fields_that_declare_one_in_their_order() -> None:
    found = {declared.name: declared for declared in options_of(Spec)}
    assert list(found) == [field.name for field in dataclasses.fields(Spec) if field.name != "hidden"]
    assert [declared.flag for declared in found.values()] == [
        "name", "--colour", "--top-k", "--bins", "--shape", "--gamma", "--sizes", "--words", "--loud", "--loss",
        "--seed",
    ]  # fmt: skip
    assert {name: declared.kind for name, declared in found.items()} == {
        "name": str, "colour": str, "top_k": int, "bins": int, "shape": str, "limit": float, "sizes": str, "words": str,
        "loud": bool, "loss": bool, "seed": int,
    }  # fmt: skip
    assert (found["name"].default, found["top_k"].default, found["sizes"].default) == (None, 3, (1, 2))
    assert [name for name, declared in found.items() if declared.in_plan] == ["top_k"]
    assert [name for name, declared in found.items() if declared.common] == ["seed"]
    assert found["top_k"].unit == "keys"


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"colour": "green"}, "--colour 'green' is unknown; choose one of red, blue"),
        ({"shape": "tall"}, "--shape 'tall' is unknown; choose one of round, flat"),
        ({"top_k": 0}, "--top-k 0 is below 1; keep at least one"),
        ({"bins": 0}, "--bins 0 is impossible; choose from 1 to 9"),
        ({"bins": 10}, "--bins 10 is impossible; choose from 1 to 9"),
        ({"limit": -0.5}, "--gamma -0.5 is negative; choose 0 or more"),
        ({"seed": -1}, "--seed -1 is negative; choose 0 or more"),
    ],
)
def test_a_program_and_a_command_line_are_refused_alike(given: dict[str, Any], refusal: str) -> None:
    with pytest.raises(ValueError) as program:  # noqa: PT011 - the text is compared
        Spec(name="x", **given)
    assert str(program.value) == refusal
    if "seed" not in given:
        ((name, value),) = given.items()
        flag = next(declared.flag for declared in options_of(Spec) if declared.name == name)
        with pytest.raises(ValueError) as typed:  # noqa: PT011
            spec_of(f"{flag}={value}")
        assert str(typed.value) == refusal


@pytest.mark.parametrize(
    "given", [{"top_k": 1}, {"bins": 1}, {"bins": 9}, {"limit": 0.0}, {"limit": None}, {"shape": None}]
)
def test_bounds_belong_to_what_is_allowed(given: dict[str, Any]) -> None:
    assert {name: getattr(Spec(name="x", **given), name) for name in given} == given


def test_what_is_typed_becomes_the_values_of_the_fields(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("one two")
    spec = spec_of("--sizes", "4,5", "--words", str(words), "--gamma", "0.25", "--loud", "--no-loss", "--colour=blue")
    assert spec == Spec(
        name="x", colour="blue", limit=0.25, sizes=(4, 5), words=("one", "two"), loud=True, loss=False
    )  # fmt: skip
    assert spec_of() == Spec(name="x")
    with pytest.raises(ValueError, match="--sizes 'a' is malformed; write 1,2"):
        spec_of("--sizes", "a")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [(["--top-k", "many"], "'many'"), (["--gamma", "x"], "'x'"), (["--no-such"], "--no-such"), (["--no-loud"], "loud")],
)
def test_what_is_no_value_at_all_is_a_usage_error(wrong: list[str], named: str) -> None:
    with pytest.raises(click.UsageError) as refusal:
        spec_of(*wrong)
    assert named in refusal.value.format_message()


def test_help_says_choices_defaults_and_what_happens_otherwise() -> None:
    with click.Context(command(), info_name="toy", max_content_width=200, terminal_width=200) as context:
        lines = {
            line.split()[0]: " ".join(line.split()) for line in command().get_help(context).splitlines() if line.strip()
        }
    assert lines["--colour"] == "--colour [red|blue] Its colour. [default: red]"
    assert lines["--top-k"] == "--top-k INTEGER Keys. [default: 3]"
    assert lines["--gamma"] == "--gamma FLOAT A limit. [default: none]"
    assert lines["--sizes"] == "--sizes LIST Sizes. [default: 1,2]"
    assert lines["--loud"] == "--loud Be loud."
    assert lines["--loss"] == "--loss / --no-loss Losses too. [default: loss]"
    assert "NAME" in lines["Usage:"]


def test_choices_complete_and_files_travel() -> None:
    made = {parameter.name: parameter for parameter in command().params}
    with click.Context(command()) as context:
        completed = made["colour"].shell_complete(context, "b")
    assert [item.value for item in completed] == ["blue"]
    assert isinstance(made["words"].type, InputFile)


def test_a_file_is_read_by_the_field_that_takes_it(tmp_path: Path) -> None:
    def refuse(file: Path) -> Any:
        raise ValueError(f"--words {file.name} cannot be read; name another")

    @dataclass(frozen=True, kw_only=True)
    class Reading:
        words: str | None = option(None, read=refuse, help="Words.")

    read: Callable[..., dict[str, Any]] = taken
    assert read(Reading, {"words": None}) == {}
    with pytest.raises(ValueError, match="--words absent cannot be read; name another"):
        read(Reading, {"words": tmp_path / "absent"})
