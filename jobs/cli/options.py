"""Options that commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from qkatlas.jobs.inputs.model import Model
    from qkatlas.jobs.loop.session import Session

Command = TypeVar("Command", bound=Callable[..., Any])


class InputFile(click.Path):
    """A file of this machine that a job reads: it travels with a job that is handed to a cluster."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """The options of a job that needs neither a model nor GPUs, as they were given."""

    out: str
    address: str | None
    in_process: bool
    seed: int
    quiet: bool
    wait: int | None = None
    gpus: int | None = 0
    detach: bool = False

    def __post_init__(self) -> None:
        if self.address is not None and self.in_process:
            raise ValueError(f"--address {self.address} and --in-process exclude each other; leave one out")
        if self.detach and not self.is_remote:
            raise ValueError("--detach leaves a job to a cluster; give --address http://HEAD:8265 too, or drop it")

    @property
    def is_remote(self) -> bool:
        """Whether `--address` is a dashboard, whose cluster runs the whole command."""
        return self.address is not None and self.address.startswith(("http://", "https://"))

    def session(self) -> Session:
        """A session with these options.

        Raises:
            ValueError: if they contradict each other or name something unsupported.
        """
        from qkatlas.jobs.loop.session import Session

        return Session(
            out=self.out,
            gpus=self.gpus,
            address=self.address,
            in_process=self.in_process,
            seed=self.seed,
            quiet=self.quiet,
            wait=self.wait,
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions(SessionOptions):
    """The options of a job that opens a model, as they were given."""

    model: str

    def open_model(self, session: Session) -> Model:
        """The model that `--model` names, made or downloaded first if it has to be.

        Raises:
            ValueError: if there is no such model, or it is not supported.
        """
        from qkatlas.jobs.inputs.model import Model
        from qkatlas.jobs.inputs.resolve import resolve

        return Model.open(self.model, resolve(self.model, session.progress.say))


def out_option(command: Command) -> Command:
    """Add `--out`."""
    return click.option(
        "--out",
        default="runs",
        show_default=True,
        metavar="DIR_OR_URI",
        help="Folder of all runs, or s3://bucket/prefix[?endpoint_override=HOST:PORT&scheme=http&region=R], gs://...",
    )(command)


def scoring_options(*, top_k: int) -> Callable[[Any], Any]:
    """Add `--top-k`, `--states` and `--scores`.

    Args:
        top_k: default of `--top-k`.
    """

    def add(command: Any) -> Any:
        return _add(
            form_options(command),
            click.option("--top-k", type=int, default=top_k, show_default=True, metavar="K",
                         help="Keys kept for each query token."),
        )  # fmt: skip

    return add


def form_options(command: Any) -> Any:
    """Add `--states` and `--scores`."""
    return _add(
        command,
        click.option("--states", default="mlp", show_default=True,
                     help="How token states are taken: mlp, mean or bos."),
        click.option("--scores", default="attention", show_default=True,
                     help="attention (nats) or bilinear (no bias, scale)."),
    )  # fmt: skip


def prompt_options(command: Any) -> Any:
    """Add `--prompts`, `--length` and `--categories`."""
    return _add(
        command,
        click.option("--prompts", type=int, default=128, show_default=True, metavar="N",
                     help="Prompts of category words."),
        click.option("--length", type=int, default=None, metavar="N",
                     help="Words in a prompt.  [default: 64, or as many as the model reads]"),
        click.option("--categories", type=InputFile(), default=None, metavar="FILE",
                     help="CSV of words, one category a row.  [default: 64 categories of our own]"),
    )  # fmt: skip


def read_category_words(categories: Path | None) -> tuple[tuple[str, ...], ...] | None:
    """The words of `--categories`; None where it was not given.

    Raises:
        ValueError: if the file cannot be read or holds no words.
    """
    from qkatlas.pipeline.text.categories import read_words

    return None if categories is None else tuple(map(tuple, read_words(categories)))


def frequency_options(default: int | None) -> Callable[[Any], Any]:
    """Add `--frequencies` and `--most-frequent`; they arrive together, as `frequencies`, which may be None.

    Args:
        default: of `--most-frequent`; None = all.
    """

    def add(command: Callable[..., Any]) -> Any:
        @functools.wraps(command)
        def collected(*, frequencies: Path | None, most_frequent: int | None, **given: Any) -> Any:
            from qkatlas.jobs.inputs.frequencies import Frequencies

            if most_frequent is not None and most_frequent < 1:
                raise ValueError(f"--most-frequent {most_frequent} is below 1; choose 1 or more")
            if frequencies is None:
                if most_frequent is not None:
                    raise ValueError(
                        f"--most-frequent {most_frequent} needs the counts; give --frequencies a CSV of token,id,count"
                    )
                return command(frequencies=None, **given)
            return command(frequencies=Frequencies.read(frequencies, most_frequent or default), **given)

        return _add(
            collected,
            click.option("--frequencies", type=InputFile(), default=None, metavar="CSV",
                         help="Take the tokens of this list only: columns token,id,count.  [default: all tokens]"),
            click.option("--most-frequent", type=int, default=None, metavar="N",
                         help=f"How many of them, the most frequent first.  [default: {default or 'all'}]"),
        )  # fmt: skip

    return add


_SESSION_OPTIONS = (
    out_option,
    click.option("--address", default=None, metavar="ADDRESS",
                 help="Ray cluster to join: auto or host:port. A dashboard, http://HEAD:8265: hand the command to its "
                 "cluster and show the log.  [default: a cluster of this machine's own]"),
    click.option("--detach", is_flag=True, help="With a dashboard: print the job's id and leave it to the cluster."),
    click.option("--wait", type=click.IntRange(min=0), default=None, metavar="SECONDS",
                 help="How long a joined cluster may take to grow to what is asked for.  [default: not at all]"),
    click.option("--in-process", is_flag=True, help="Run without Ray, in this process (for debugging)."),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N",
                 help="Seed of whatever a job draws at random; full-vocab draws nothing."),
    click.option("--quiet", is_flag=True, help="Print nothing but errors."),
)  # fmt: skip


def run_options(command: Callable[..., Any]) -> Any:
    """Add the options of a job that opens a model; they arrive together, as `options`, which are RunOptions."""
    return _add(
        _collected(command, RunOptions),
        click.option("--model", default="gpt2", show_default=True, metavar="NAME_OR_DIR",
                     help="A Hugging Face model directory or hub name, or planted, planted-small, planted-tiny."),
        click.option("--gpus", type=click.IntRange(min=0), default=None, metavar="N",
                     help="GPUs to use; 0 = CPUs only.  [default: all the cluster has]"),
        *_SESSION_OPTIONS,
    )  # fmt: skip


def session_options(command: Callable[..., Any]) -> Any:
    """Add the options of a job that needs no model; they arrive together, as `options`, which are SessionOptions."""
    return _add(_collected(command, SessionOptions), *_SESSION_OPTIONS)


def _collected(command: Callable[..., Any], kind: type[SessionOptions]) -> Callable[..., Any]:
    @functools.wraps(command)
    def collected(**given: Any) -> Any:
        common = {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}
        options = kind(**common)
        if options.is_remote:
            from qkatlas.jobs.cli.handover import hand_over

            return hand_over(options, click.get_current_context())
        return command(options=options, **given)

    return collected


def _add(command: Any, *options: Callable[[Any], Any]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
