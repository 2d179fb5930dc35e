"""`submit plan`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from qkatlas.jobs.cli.command import parameters, taken
from qkatlas.jobs.loop.option import check_options, option, options_of

if TYPE_CHECKING:
    from qkatlas.jobs.loop.declaration import Declaration


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is planned for."""

    model: str = option(
        "gpt2",
        metavar="NAME_OR_DIR",
        help="gpt2[-medium|-large|-xl], llama-3-8b, llama-3-70b, gemma-2-2b, gemma-2-9b, planted[-small|-tiny], or a "
        "directory with config.json; no weights are read.",
    )
    gpus: int = option(0, metavar="N", least=0, help="GPUs; 0 = CPUs only.")
    gpu: str | None = option(
        None, choices=("l4", "l40s", "a100", "h100", "h200"), help="Their kind.", shown_default="a100"
    )
    cpus: int | None = option(
        None, metavar="N", least=1, help="Cores of all workers together.",
        shown_default="4 a GPU; this machine's with --gpus 0",
    )  # fmt: skip
    as_json: bool = option(False, flag="--json", help="Print JSON, in bytes, FLOPs and seconds.")

    def __post_init__(self) -> None:
        check_options(self)
        if self.gpu and not self.gpus:
            raise ValueError(f"--gpu {self.gpu} is a kind, and there are none; give their number with --gpus")

    def show(self, make: Any, spec: Any) -> None:
        """Print the plan of a spec.

        Args:
            make: makes it of a shape and a spec.
            spec: what is asked for.

        Raises:
            ValueError: if there is no such model, or the job does not fit it.
        """
        from rich.console import Console

        from qkatlas.cluster.cpus import local_cpus
        from qkatlas.jobs.plan.device import GPUS
        from qkatlas.jobs.plan.plan import Machines
        from qkatlas.jobs.plan.shape import find_shape
        from qkatlas.jobs.plan.text import plan_json, plan_text

        planned = make(find_shape(self.model), spec)
        # As many threads as a worker can use, unless said otherwise.
        cpus = self.cpus or (4 * self.gpus if self.gpus else local_cpus())
        machines = Machines.of(gpus=self.gpus, cpus=cpus, gpu=GPUS[self.gpu or "a100"])
        if self.as_json:
            click.echo(json.dumps(plan_json(planned, machines), indent=1))
        else:
            Console(highlight=False, soft_wrap=True).print(plan_text(planned, machines))


def plan_command(declarations: Mapping[str, Declaration]) -> click.Group:
    """`submit plan` with a command for each job that is modelled.

    Args:
        declarations: all jobs, by name.
    """
    group = click.Group(
        "plan",
        help="Say what a job would take: shards, files, bytes, arithmetic, memory and time; nothing is computed.",
    )
    modelled = [name for name, declaration in declarations.items() if declaration.plan]
    for name, declaration in declarations.items():
        if declaration.plan:
            group.add_command(_planning(declaration))
        else:
            group.add_command(_refusing(name, " or ".join(modelled)))
    return group


def _planning(declaration: Declaration) -> click.Command:
    def run(**given: Any) -> None:
        target = Target(**taken(Target, given))
        spec = declaration.spec(**taken(declaration.spec, given))
        target.show(declaration.load(declaration.plan), spec)

    own = [option for option in declaration.options if option.in_plan]
    return click.Command(
        declaration.name,
        callback=run,
        params=parameters([*own, *options_of(Target)]),
        help=f"Plan a run. {declaration.summary}",
    )


def _refusing(name: str, modelled: str) -> click.Command:
    def run(**given: Any) -> None:
        raise ValueError(f"submit plan {name} is not modelled; choose {modelled}")

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=run, hidden=True, context_settings=anything, add_help_option=False)
