"""Names of tasks, without the code that draws them: requests are checked before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping

INTEGERS, URLS, BLOCK, PREPOSITIONS, USER = "integer-copying", "url", "induction", "prepositions", "user"

LONGEST_PREFIX = 9
"""Longest exact prefix that induction is measured after."""

PREFIXES: Mapping[str, int] = {f"{BLOCK}-{length}": length for length in range(1, LONGEST_PREFIX + 1)}
"""Induction after exact prefixes, with the tokens of each."""

SUCCESSIONS: Mapping[str, str] = {
    f"succession-{kind}": kind for kind in ("days", "months", "numbers", "ordinals", "letters")
}
"""Succession, with the list whose words follow each other."""

FAMILIES: Mapping[str, str] = {
    INTEGERS: INTEGERS,
    URLS: URLS,
    BLOCK: BLOCK,
    **dict.fromkeys(PREFIXES, BLOCK),
    **dict.fromkeys(SUCCESSIONS, "succession"),
    PREPOSITIONS: PREPOSITIONS,
}
"""Every task that can be drawn, and what kind of job it is: a head that does induction after two tokens and after three
does one job."""


def family_of_task(task: str) -> str:
    """What kind of job a task is; a task of the user's own is one by itself."""
    return FAMILIES.get(task, task)


def chosen_tasks(text: str | None) -> tuple[str, ...]:
    """The tasks that `--tasks` names, in the order of the project; None = all.

    Args:
        text: names apart by commas; `induction-*` and `succession-*` stand for all of a kind, `none` for no task.

    Raises:
        ValueError: if a name is unknown.
    """
    if text is None:
        return tuple(FAMILIES)
    if text.strip() == "none":
        return ()
    kinds = {f"{BLOCK}-*": tuple(PREFIXES), "succession-*": tuple(SUCCESSIONS)}
    chosen: set[str] = set()
    for name in map(str.strip, text.split(",")):
        if name not in FAMILIES and name not in kinds:
            raise ValueError(f"--tasks {name!r} is unknown; choose from {', '.join([*FAMILIES, *kinds])}")
        chosen.update(kinds.get(name, (name,)))
    return tuple(task for task in FAMILIES if task in chosen)
