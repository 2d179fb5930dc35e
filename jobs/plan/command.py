"""`submit plan`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from qkatlas.jobs.plan.plan import Plan
    from qkatlas.jobs.plan.shape import Shape

_NOT_PLANNED = ("ablation", "steering", "similarity", "communities", "reproduce", "report")


class _Jobs(click.Group):
    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        if args and args[0] in _NOT_PLANNED:
            raise ValueError(f"submit plan {args[0]} is not modelled; choose full-vocab or head-scan")
        return super().resolve_command(ctx, args)


@click.group("plan", cls=_Jobs)
def plan() -> None:
    """Say what a job would take: shards, files, bytes, arithmetic, memory and time; nothing is computed."""


@dataclass(frozen=True, kw_only=True)
class _Target:
    """What is planned for, as it was given."""

    model: str
    gpus: int
    gpu: str | None
    cpus: int | None
    as_json: bool

    def show(self, make: Callable[[Shape], Plan]) -> None:
        """Print the plan.

        Raises:
            ValueError: if there is no such model or GPU, or the job does not fit the model.
        """
        from rich.console import Console

        from qkatlas.cluster.in_process import local_cpus
        from qkatlas.jobs.plan.device import GPUS
        from qkatlas.jobs.plan.plan import Machines
        from qkatlas.jobs.plan.shape import find_shape
        from qkatlas.jobs.plan.text import plan_json, plan_text

        kind = self.gpu or "a100"
        if kind not in GPUS:
            raise ValueError(f"--gpu {kind!r} is not in the table; choose one of {', '.join(GPUS)}")
        if self.gpu and not self.gpus:
            raise ValueError(f"--gpu {kind} is a kind, and there are none; give their number with --gpus")
        planned = make(find_shape(self.model))
        # As many threads as a worker can use, unless said otherwise.
        cpus = self.cpus or (4 * self.gpus if self.gpus else local_cpus())
        machines = Machines.of(gpus=self.gpus, cpus=cpus, gpu=GPUS[kind])
        if self.as_json:
            click.echo(json.dumps(plan_json(planned, machines), indent=1))
        else:
            Console(highlight=False, soft_wrap=True).print(plan_text(planned, machines))


def _target_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what is planned for; they arrive together, as `target`."""

    @functools.wraps(command)
    def collected(*, model: str, gpus: int, gpu: str | None, cpus: int | None, as_json: bool, **given: Any) -> None:
        command(target=_Target(model=model, gpus=gpus, gpu=gpu, cpus=cpus, as_json=as_json), **given)

    wrapped: Any = collected
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, in bytes, FLOPs and seconds."),
        click.option("--cpus", type=click.IntRange(min=1), default=None, metavar="N",
                     help="Cores of all workers together.  [default: 4 a GPU; this machine's with --gpus 0]"),
        click.option("--gpu", default=None, metavar="KIND",
                     help="Their kind: l4, l40s, a100, h100 or h200.  [default: a100]"),
        click.option("--gpus", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                     help="GPUs; 0 = CPUs only."),
        click.option("--model", default="gpt2", show_default=True, metavar="NAME_OR_DIR",
                     help="gpt2[-medium|-large|-xl], llama-3-8b, llama-3-70b, gemma-2-2b, gemma-2-9b, "
                          "planted[-small|-tiny], or a directory with config.json; no weights are read."),
    ):  # fmt: skip
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


@plan.command("full-vocab")
@click.option("--head", default="L1H5", show_default=True, help="The head: L<layer>H<head>, from 0.")
@click.option("--top-k", type=int, default=64, show_default=True, metavar="K", help="Keys kept for each query token.")
@click.option("--states", default="mlp", show_default=True, help="How token states are taken: mlp, mean or bos.")
@click.option("--shards", type=int, default=None, metavar="N", help="Pieces of work.  [default: 4096 tokens each]")
@_target_options
def plan_full_vocab(head: str, top_k: int, states: str, shards: int | None, target: _Target) -> None:
    """Plan one head over the vocabulary."""
    from qkatlas.jobs.full_vocab import plan as full_vocab
    from qkatlas.jobs.full_vocab.job import FullVocab
    from qkatlas.jobs.inputs.settings import require_top_k_fits
    from qkatlas.pipeline.models.head import Head

    spec = FullVocab(head=head, top_k=top_k, states=states)

    def make(shape: Shape) -> Plan:
        require_top_k_fits(spec.top_k, shape.vocab_size)
        return full_vocab.plan_full_vocab(shape, Head.parse(spec.head), states=states, top_k=top_k, shards=shards)

    target.show(make)


@plan.command("head-scan")
@click.option("--layers", default=None, metavar="LIST", help="Layers, such as 0-3,7.  [default: all]")
@click.option("--heads", default=None, metavar="LIST",
              help="Heads of these layers, such as 0-5, or names such as L1H5,L4H11.  [default: all]")  # fmt: skip
@click.option("--top-k", type=int, default=10, show_default=True, metavar="K", help="Keys kept for each query token.")
@click.option("--states", default="mlp", show_default=True, help="How token states are taken: mlp, mean or bos.")
@click.option("--prompts", type=int, default=128, show_default=True, metavar="N", help="Prompts of category words.")
@click.option("--length", type=int, default=None, metavar="N",
              help="Words in a prompt.  [default: 64, or as many as the model reads]")  # fmt: skip
@_target_options
def plan_head_scan(
    layers: str | None, heads: str | None, top_k: int, states: str, prompts: int, length: int | None, target: _Target
) -> None:
    """Plan a scan of every head."""
    from qkatlas.jobs.head_scan import plan as head_scan
    from qkatlas.jobs.head_scan.job import HeadScan
    from qkatlas.jobs.inputs.heads import heads_within
    from qkatlas.jobs.inputs.settings import require_top_k_fits
    from qkatlas.pipeline.models.head import Head

    def make(shape: Shape) -> Plan:
        names = heads_within(layers, heads, n_layers=shape.n_layers, n_heads=shape.n_heads)
        spec = HeadScan(heads=names, top_k=top_k, states=states, prompts=prompts, length=length)
        require_top_k_fits(spec.top_k, shape.vocab_size)
        chosen = [Head.parse(name) for name in names]
        plan_scan = head_scan.plan_head_scan
        return plan_scan(shape, chosen, states=states, top_k=top_k, prompts=prompts, length=length)

    target.show(make)
