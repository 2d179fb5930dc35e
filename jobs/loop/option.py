"""Options of a job: each is declared once, on a field of its spec; command line, plan and docs read it there."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KEY = "option"


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a person may say of one field of a spec, and how.

    Attributes:
        name: of the field.
        flag: as it is typed, such as `--top-k`.
        help: one sentence.
        metavar: what stands for the value in `--help`.
        unit: of the value; none for names and pure numbers.
        choices: the values there are; none = whatever the other checks let through.
        least: the smallest number; None = no bound.
        most: the largest number; None = no bound.
        remedy: what to do about a number below the least.
        shown_default: what happens where the option is not given, if its default does not say so.
        parse: makes the value of its text, given the flag and the text; None = the text, or a number where the field is
            one.
        read: makes the value of the content of a file of this machine, given its path; such a file travels with a job
            that a cluster is handed.
        writes: whether it names a file of this machine that the job writes, which no cluster could.
        argument: whether it is an argument, which is typed without its name.
        common: whether all jobs share it, so that it is typed as one of theirs.
        in_plan: whether a plan depends on it.
        bare: the value of an option that is typed without one; None = it needs one.
        pair: whether two values follow it, which are then a tuple.
        opposite: what is typed for False, such as `--ray`; none where it is `--no-` and the flag.
        kind: type of the value: `bool`, `int`, `float` or `str`.
        default: of the field.
    """

    name: str
    flag: str
    help: str
    metavar: str | None
    unit: str
    choices: tuple[str, ...]
    least: float | None
    most: float | None
    remedy: str
    shown_default: str
    parse: Callable[[str, str], Any] | None
    read: Callable[[Path], Any] | None
    writes: bool
    argument: bool
    common: bool
    in_plan: bool
    bare: Any
    pair: bool
    opposite: str
    kind: type
    default: Any

    @property
    def says_no(self) -> str:
        """What is typed for False, of a flag."""
        return self.opposite or f"--no-{self.flag.removeprefix('--')}"

    def check(self, value: Any) -> None:
        """Check a value against the choices and bounds.

        Raises:
            ValueError: if it is none of the choices, or out of bounds.
        """
        if value is None:
            return
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.flag} {value!r} is unknown; choose one of {', '.join(self.choices)}")
        if not isinstance(value, int | float):
            return
        if self.least is not None and self.most is not None and not self.least <= value <= self.most:
            raise ValueError(f"{self.flag} {value} is impossible; choose from {self.least} to {self.most}")
        if self.least is not None and value < self.least:
            below = "is negative" if self.least == 0 else f"is below {self.least}"
            raise ValueError(f"{self.flag} {value} {below}; {self.remedy or f'choose {self.least} or more'}")


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    flag: str = "",
    metavar: str | None = None,
    unit: str = "",
    choices: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
    remedy: str = "",
    shown_default: str = "",
    parse: Callable[[str, str], Any] | None = None,
    read: Callable[[Path], Any] | None = None,
    writes: bool = False,
    argument: bool = False,
    common: bool = False,
    in_plan: bool = False,
    bare: Any = None,
    pair: bool = False,
    opposite: str = "",
) -> Any:
    """A field of a spec that is an option of its command; see `Option` for what each argument means.

    Args:
        default: of the field; it must be given otherwise.
        help: one sentence.
        flag: as it is typed; the field's name if not given.
        metavar: what stands for the value in `--help`.
        unit: of the value.
        choices: the values there are.
        least: the smallest number.
        most: the largest number.
        remedy: what to do about a number below the least.
        shown_default: what happens where it is not given.
        parse: makes the value of its text.
        read: makes the value of a file.
        writes: whether it names a file that the job writes.
        argument: whether it is typed without its name.
        common: whether all jobs share it.
        in_plan: whether a plan depends on it.
        bare: the value where it is typed without one.
        pair: whether two values follow it.
        opposite: what is typed for False.

    Returns:
        A dataclass field.
    """
    said = {
        "flag": flag, "help": help, "metavar": metavar, "unit": unit, "choices": tuple(choices), "least": least,
        "most": most, "remedy": remedy, "shown_default": shown_default, "parse": parse, "read": read,
        "writes": writes, "argument": argument, "common": common, "in_plan": in_plan, "bare": bare,
        "pair": pair, "opposite": opposite,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata={_KEY: said})


def options_of(spec: type) -> tuple[Option, ...]:
    """The options that a spec declares, in the order of its fields; fields without one are for programs alone.

    Args:
        spec: a dataclass.
    """
    hints = typing.get_type_hints(spec)
    found = []
    for field in dataclasses.fields(spec):
        if _KEY not in field.metadata:
            continue
        said = dict(field.metadata[_KEY])
        flag = said.pop("flag") or (field.name if said["argument"] else f"--{field.name.replace('_', '-')}")
        default = None if field.default is dataclasses.MISSING else field.default
        found.append(Option(name=field.name, flag=flag, kind=_kind(hints[field.name]), default=default, **said))
    return tuple(found)


def check_options(spec: Any) -> None:
    """Check every option of a spec by its own choices and bounds.

    Raises:
        ValueError: if one does not hold.
    """
    for option in options_of(type(spec)):
        option.check(getattr(spec, option.name))


def _kind(hint: Any) -> type:
    """The plain type of a field's values, None aside."""
    plain = [one for one in typing.get_args(hint) or (hint,) if one is not type(None)]
    return plain[0] if len(plain) == 1 and plain[0] in (bool, int, float) else str
