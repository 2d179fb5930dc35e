"""Help: commands by what they are for, each with an example and where the documentation speaks of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import click

HELP = ["-h", "--help"]
"""How help is asked for."""

_PAGE = "docs/jobs.md"
"""The page of most commands; addresses are those in the repository."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """How a command is used.

    Attributes:
        line: as it is typed.
        page: where the documentation speaks of it.
    """

    line: str
    page: str

    @property
    def epilog(self) -> str:
        """The end of the command's help."""
        return f"\b\nExample:\n  {self.line}\n\nMore in {self.page}"


EXAMPLES = {
    "rerun": Example(line="submit rerun latest --into again", page=f"{_PAGE}#--config-rerun"),
    "plan": Example(line="submit plan head-scan --model llama-3-8b --gpus 8", page=f"{_PAGE}#plan"),
    "plan full-vocab": Example(line="submit plan full-vocab --model gpt2 --cpus 8", page=f"{_PAGE}#plan"),
    "plan head-scan": Example(
        line="submit plan head-scan --model llama-3-8b --gpus 8 --gpu h100", page=f"{_PAGE}#plan"
    ),
    "plan features": Example(line="submit plan features --model planted --cpus 8", page=f"{_PAGE}#plan"),
    "plan neurons": Example(line="submit plan neurons --model planted --cpus 8", page=f"{_PAGE}#plan"),
    "plan positions": Example(line="submit plan positions --model smollm2 --cpus 8", page=f"{_PAGE}#plan"),
    "plan tasks": Example(line="submit plan tasks --model smollm2 --tasks induction", page=f"{_PAGE}#plan"),
    "find": Example(line="submit find --model planted --attends dog:cat --not dog:dog", page=f"{_PAGE}#find"),
    "relations": Example(line="submit relations --model smollm2 --layers 0-7", page=f"{_PAGE}#relations"),
    "show": Example(line="submit show latest red Monday --keys 5", page=f"{_PAGE}#show"),
    "diff": Example(line="submit diff full-vocab-1a2b3c full-vocab-4d5e6f --csv", page=f"{_PAGE}#diff"),
    "sql": Example(line="submit sql latest 'SELECT * FROM pairs WHERE place = 1 LIMIT 5'", page=f"{_PAGE}#sql"),
    "report": Example(line="submit report full-vocab-latest --out report.html", page=f"{_PAGE}#report"),
    "publish": Example(line="submit publish latest hf://datasets/OWNER/NAME --license mit", page=f"{_PAGE}#publish"),
    "runs": Example(line="submit runs --json", page=f"{_PAGE}#runs-status-verify"),
    "status": Example(line="submit status full-vocab-latest", page=f"{_PAGE}#runs-status-verify"),
    "verify": Example(line="submit verify latest", page=f"{_PAGE}#runs-status-verify"),
    "jobs": Example(
        line="submit jobs --address http://localhost:8265", page="docs/cluster.md#hand-a-job-over"
    ),
    "logs": Example(line="submit logs JOB --follow", page="docs/cluster.md#hand-a-job-over"),
    "stop": Example(line="submit stop JOB", page="docs/cluster.md#hand-a-job-over"),
    "model": Example(line="submit model planted my-model --size tiny", page="docs/jobs.md"),
    "model planted": Example(line="submit model planted my-model --size tiny --head L1H3", page="docs/jobs.md"),
}  # fmt: skip
"""Of the commands that are no jobs; a job declares its own."""


def example_of_job(name: str, line: str) -> dict[str, Example]:
    """The example that a job declares, by its name; none if it declares none."""
    return {name: Example(line=line, page=f"{_PAGE}#{name}")} if line else {}


class Sections(click.Group):
    """A group whose help lists its commands by what they are for."""

    sections: dict[str, list[str]]

    def add_section(self, title: str, commands: Iterable[click.Command], examples: Mapping[str, Example]) -> None:
        """Add commands that belong together.

        Args:
            title: what they are for.
            commands: the commands.
            examples: by the names of commands, and of those within a group by both names.
        """
        self.sections = getattr(self, "sections", {})
        for command in commands:
            self.sections.setdefault(title, []).append(str(command.name))
            self.add_command(command)
            _explain(command, str(command.name), examples)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section: what a command does in a clause, wrapped where it is long and never cut."""
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, _clause(self.commands[name])) for name in names])


def _explain(command: click.Command, path: str, examples: Mapping[str, Example]) -> None:
    command.get_help_option(click.Context(command, help_option_names=HELP))  # kept from here on, whatever asks next
    if path in examples:
        command.epilog = examples[path].epilog
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            _explain(inner, f"{path} {name}", examples)


def _clause(command: click.Command) -> str:
    """What a command does, up to the details."""
    return re.split(r":\s|;|\.\s|\.$", " ".join((command.help or "").split()))[0]
