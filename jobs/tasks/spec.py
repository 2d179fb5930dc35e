"""What a tasks run is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qkatlas.jobs.inputs import fields
from qkatlas.jobs.loop.option import check_options, option
from qkatlas.pipeline.passes.kinds import KINDS
from qkatlas.pipeline.tasks.kinds import chosen_tasks

EXACT, AUDIT, PROMPTS = 32, 16, 64


def read_file(file: Path) -> str:
    """The lines of `--file`, checked; see `qkatlas.pipeline.tasks.user.read_tasks`."""
    from qkatlas.pipeline.tasks.user import read_tasks

    return read_tasks(file)


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Tasks of a model, and the heads that are ablated while it solves them."""

    tasks: str | None = option(
        None, metavar="LIST", in_plan=True, shown_default="all that the vocabulary can write",
        help="Tasks, such as induction,succession-*, or none for those of --file alone.",
    )  # fmt: skip
    """Names of tasks; None = all that the vocabulary can write."""
    file: str | None = option(
        None, metavar="JSONL", read=read_file, shown_default="none",
        help="Tasks of your own: a JSON object a line with prompt, answer, control and, of several tasks, task.",
    )  # fmt: skip
    """Tasks of the user's own, a JSON object a line; None = none."""
    layers: str | None = fields.layers()
    """Numbers and ranges of layers, from 0; None = every layer."""
    heads: str | tuple[str, ...] | None = fields.heads()
    """Numbers and ranges for each of these layers, or names of heads; None = every head."""
    kind: str = option("mean", choices=KINDS, help="What replaces what a head hands to W_O.")
    """What takes the place of an output: `mean`, `zero` or `resample`."""
    prompts: int = fields.prompts(PROMPTS, help="Prompts of each task, and as many controls.")
    """Prompts of each task, and as many controls."""
    exact: int = option(
        EXACT, metavar="N", unit="heads", least=0, in_plan=True,
        help="Heads of each task that are measured exactly, those of the largest linear estimate; 0 = every head.",
    )  # fmt: skip
    """Heads of each task that are measured exactly; 0 = every head."""
    audit: int = option(
        AUDIT, metavar="N", unit="heads", least=0, in_plan=True,
        help="Other heads of each task that are measured too, at random, to bound what the estimate misses.",
    )  # fmt: skip
    """Other heads of each task that are measured too, at random."""
    prefixes: bool = option(True, in_plan=True, help="Study repeated prefixes on natural text too.")
    """Whether repeated prefixes are studied on natural text too."""
    text: str | None = option(
        None, metavar="FILE", read=fields.read_text, shown_default="a text of our own", help="That text."
    )
    """The text for it; None = the calibration text."""
    random_weights: bool = option(False, help="Shuffle every weight matrix: a null, whose model has learned nothing.")
    """Whether the entries of every weight matrix are shuffled."""
    seed: int = fields.seed()
    """Seed of prompts, partners, samples and bootstrap intervals."""

    def __post_init__(self) -> None:
        check_options(self)
        if self.heads == ():
            raise ValueError("--heads names no head; name at least one, for example L1H5")
        if not chosen_tasks(self.tasks) and self.file is None:
            raise ValueError("--tasks none leaves no task; give --file, or name some")
        if self.text is not None and not self.prefixes:
            raise ValueError(
                "--text and --no-prefixes exclude each other, for the text serves prefixes alone; drop one"
            )
        if self.kind == "resample" and self.prompts < 2:
            raise ValueError("--kind resample needs two prompts; give --prompts 2 or more")
