"""The command `submit`."""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

# Heavy imports stay inside the commands that need them: `submit runs` answers without torch or Ray.

Command = TypeVar("Command", bound=Callable[..., Any])

COMPLETE, INCOMPLETE, BAD_REQUEST, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 all committed, 1 some shard could not be computed, 2 a bad request."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a token or a path may hold what the terminal cannot show
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))  # noqa: TID251 - the one place


def run(argv: Sequence[str]) -> int:
    """Run the command line.

    Args:
        argv: arguments after the command's name.

    Returns:
        The exit code.
    """
    try:
        done = submit.main(args=list(argv), prog_name="submit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return BAD_REQUEST
    except click.ClickException as error:
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "submit"
        return _refuse(f"{error.format_message().rstrip('.')}; see {hint} --help")
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted; what was committed is kept, and the same command goes on from there", INTERRUPTED)
    except ValueError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        # Whoever read our output has seen enough; it is printed after everything was committed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COMPLETE
    except PermissionError as error:
        return _refuse(f"{error.filename} may not be read or written by this user; change its mode or choose another")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _say(
            f"error: the disk is full ({error.filename or error.strerror}); committed shards are kept, "
            "make room and submit again",
            INCOMPLETE,
        )
    return done if isinstance(done, int) else COMPLETE


def _terminate(number: int, frame: object) -> None:
    """End as an interrupt does: the executor is closed, and what was committed is kept."""
    raise KeyboardInterrupt


def _refuse(message: str) -> int:
    return _say(f"error: {' '.join(message.split())}", BAD_REQUEST)


def _say(message: str, code: int) -> int:
    click.echo(f"submit: {message}", err=True)
    return code


def _out_option(command: Command) -> Command:
    return click.option("--out", default="runs", show_default=True, metavar="DIR", help="Folder of all runs.")(command)


def _run_options(command: Command) -> Command:
    """Options that every computing job shares."""
    options = (
        click.option("--model", default="gpt2", show_default=True, metavar="NAME_OR_DIR",
                     help="A Hugging Face model directory or hub name, or planted, planted-small, planted-tiny."),
        click.option("--gpus", type=click.IntRange(min=0), default=None, metavar="N",
                     help="GPUs to use; 0 = CPUs only.  [default: all the cluster has]"),
        _out_option,
        click.option("--address", default=None, metavar="ADDRESS",
                     help="Ray cluster to join: auto or host:port.  [default: one of this machine's own]"),
        click.option("--in-process", is_flag=True, help="Run without Ray, in this process (for debugging)."),
        click.option("--seed", type=int, default=0, show_default=True, metavar="N",
                     help="Seed of whatever a job draws at random; full-vocab draws nothing."),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="qkatlas", prog_name="submit")
def submit() -> None:
    """Map what attention heads do over a model's whole vocabulary."""


@submit.command("full-vocab")
@click.option("--head", default="L1H5", show_default=True, help="The head: L<layer>H<head>, from 0.")
@click.option("--top-k", type=int, default=64, show_default=True, metavar="K", help="Keys kept for each query token.")
@click.option("--states", default="mlp", show_default=True, help="How token states are taken: mlp.")
@click.option("--scores", default="attention", show_default=True, help="attention (nats) or bilinear (no bias, scale).")
@click.option("--shards", type=int, default=None, metavar="N", help="Pieces of work.  [default: 4096 tokens each]")
@_run_options
def full_vocab(
    head: str,
    top_k: int,
    states: str,
    scores: str,
    shards: int | None,
    model: str,
    gpus: int | None,
    out: str,
    address: str | None,
    in_process: bool,
    seed: int,
    quiet: bool,
) -> int:
    """Score every token against every token through one head: top-k keys and self statistics."""
    from jobs.answer import top_attended
    from jobs.full_vocab import FullVocab, FullVocabJob
    from jobs.model import Model
    from jobs.resolve import resolve
    from jobs.session import Session

    spec = FullVocab(head=head, top_k=top_k, states=states, scores=scores)
    with Session(out=out, gpus=gpus, address=address, in_process=in_process, seed=seed, quiet=quiet) as session:
        opened = Model.open(model, resolve(model, session.progress.say))
        result = session.submit(FullVocabJob(spec, opened, shards=shards))
    tables = ["topk/**/*.parquet", "self/**/*.parquet", "tokens.parquet"]
    query = 'pandas.read_parquet({self}).nlargest(10, "self_gap")'
    return session.report(result, lambda: top_attended(result.run, opened), tables, query)


@submit.command("head-scan")
@click.option("--layers", default=None, metavar="LIST", help="Layers, such as 0-3,7.  [default: all]")
@click.option(
    "--heads",
    default=None,
    metavar="LIST",
    help="Heads of these layers, such as 0-5, or names such as L1H5,L4H11.  [default: all]",
)
@click.option("--top-k", type=int, default=10, show_default=True, metavar="K", help="Keys kept for each query token.")
@click.option("--states", default="mlp", show_default=True, help="How token states are taken: mlp.")
@click.option("--scores", default="attention", show_default=True, help="attention (nats) or bilinear (no bias, scale).")
@_run_options
def head_scan(
    layers: str | None,
    heads: str | None,
    top_k: int,
    states: str,
    scores: str,
    model: str,
    gpus: int | None,
    out: str,
    address: str | None,
    in_process: bool,
    seed: int,
    quiet: bool,
) -> int:
    """Scan every head: self statistics, kin and spectrum over the whole vocabulary."""
    from jobs.answer import most_suppressing
    from jobs.head_scan import HeadScan, HeadScanJob, choose_heads
    from jobs.model import Model
    from jobs.resolve import resolve
    from jobs.session import Session

    with Session(out=out, gpus=gpus, address=address, in_process=in_process, seed=seed, quiet=quiet) as session:
        opened = Model.open(model, resolve(model, session.progress.say))
        names = choose_heads(layers, heads, opened)
        spec = HeadScan(heads=names, states=states, scores=scores, top_k=top_k, seed=seed)
        result = session.submit(HeadScanJob(spec, opened))
    tables = ["heads.parquet", "spectrum.parquet", "topk/**/*.parquet", "self/**/*.parquet"]
    query = 'pandas.read_parquet({heads}).nlargest(10, "suppression_index_mean")'
    return session.report(result, lambda: most_suppressing(result.run), tables, query)


@submit.command("runs")
@_out_option
def runs(out: str) -> None:
    """List the runs in a folder."""
    from jobs.session import local_folder
    from outputs import store

    found = store.all_runs(local_folder(out))
    if not found:
        click.echo(f"no runs in {out}")
    for run_ in found:
        click.echo(_status_line(run_.folder.name, store.status(run_)))


@submit.command("status")
@click.argument("run_name", metavar="RUN")
@_out_option
def status(run_name: str, out: str) -> None:
    """Say where a run stands."""
    from jobs.session import local_folder
    from outputs import store

    run_ = store.find(local_folder(out), run_name)
    plan = run_.plan() or run_.manifest() or {}
    click.echo(_status_line(run_.folder.name, store.status(run_)))
    for name, value in plan.get("spec", {}).items():
        click.echo(f"  {name}: {value}")
    click.echo(f"  weights: sha256 {plan['model']['weights_sha256']}")
    click.echo(f"  folder: {run_.folder}")


@submit.command("verify")
@click.argument("run_name", metavar="RUN")
@_out_option
def verify(run_name: str, out: str) -> int:
    """Check every file of a finished run against its manifest; exit 1 if one differs."""
    from jobs.session import local_folder
    from outputs import store

    run_ = store.find(local_folder(out), run_name)
    faults = store.faults(run_)
    for fault in faults:
        click.echo(fault)
    if faults:
        return _say(f"{len(faults)} faults in {run_.folder}; submit the same request again to repair it", INCOMPLETE)
    state = store.status(run_)
    click.echo(f"{run_.folder.name}: sound, {state.rows} rows in {state.bytes / 1e6:.1f} MB")
    return COMPLETE


@submit.group("model")
def model() -> None:
    """Make model checkpoints."""


@model.command("planted")
@click.argument("directory", metavar="DIR")
@click.option("--size", default="full", show_default=True, help="full (GPT-2 small's shape), small or tiny.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random in it.")
@click.option("--noise", type=float, default=0.0, show_default=True, help="Noise on the planted codes.")
@click.option("--skew", type=float, default=0.0, show_default=True, help="Skew-symmetric part of the target's W_QK.")
@click.option("--head", default="L1H5", show_default=True, help="The target head, in layer 1 or later.")
def planted(directory: str, size: str, seed: int, noise: float, skew: float, head: str) -> None:
    """Write the planted checkpoint: a GPT-2 whose categories, heads and eigenvalues are known."""
    from jobs.resolve import write_planted
    from pipeline.planted import PlantedDesign

    design = PlantedDesign(size=size, seed=seed, noise=noise, skew=skew, head=head)
    try:
        write_planted(design, Path(directory))
    except OSError as error:
        raise ValueError(
            f"{directory} cannot be written ({error.strerror or error}); choose a new directory"
        ) from error
    click.echo(f"planted checkpoint ({size}, target {head}) in {directory}; its truth is in {directory}/truth.json")
    click.echo(f"next: submit full-vocab --model {shlex.quote(directory)} --head {head}")


def _status_line(name: str, state: Any) -> str:
    return f"{name}: {state.state}, {state.done}/{state.shards} shards, {state.rows} rows, {state.bytes / 1e6:.1f} MB"
