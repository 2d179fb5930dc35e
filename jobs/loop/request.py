"""What every submission asks for beside its job's own spec: where, on what, and how loudly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qkatlas.jobs.loop.option import check_options, option

IN_MEMORY = "<in memory>"
"""What stands in a manifest's command for a value that no command line can name."""


def model_option() -> Any:
    """`--model`: what is computed about."""
    return option(
        "gpt2",
        metavar="NAME_OR_DIR",
        help="A Hugging Face directory or hub name, a GGUF file, smollm2, planted, planted-small or planted-tiny.",
    )


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options that jobs share, as they were given; none of them changes a result but model and seed."""

    model: str = model_option()
    gpus: int | None = option(
        None,
        metavar="N",
        least=0,
        remedy="choose 0 for CPUs only, or more",
        help="GPUs to use; 0 = CPUs only.",
        shown_default="all the cluster has",
    )
    out: str = option(
        "runs",
        metavar="DIR_OR_URI",
        help="Folder of all runs, or s3://bucket/prefix[?endpoint_override=HOST:PORT&scheme=http&region=R], gs://...",
    )
    address: str | None = option(
        None,
        metavar="ADDRESS",
        help="Ray cluster to join: auto or host:port. A dashboard, http://HEAD:8265: hand the command to its cluster "
        "and show the log.",
        shown_default="a cluster of this machine's own",
    )
    detach: bool = option(False, help="With a dashboard: print the job's id and leave it to the cluster.")
    wait: int | None = option(
        None,
        metavar="SECONDS",
        least=0,
        help="How long a joined cluster may take to grow to what is asked for.",
        shown_default="not at all",
    )
    in_process: bool | None = option(
        None,
        opposite="--ray",
        help="Run in this process, or over Ray.",
        shown_default="in this process where work is estimated below 10 s, and neither --gpus nor --address is given",
    )
    seed: int = option(
        0, metavar="N", least=0, help="Seed of whatever a job draws at random; full-vocab draws nothing."
    )
    quiet: bool = option(False, help="Print nothing but errors.")
    verbose: bool = option(False, help="Print the run's log, too: every shard, with the time. --quiet goes before.")

    def __post_init__(self) -> None:
        check_options(self)
        if self.address is not None and self.in_process:
            raise ValueError(f"--address {self.address} and --in-process exclude each other; leave one out")
        if self.detach and not self.is_remote:
            raise ValueError("--detach leaves a job to a cluster; give --address http://HEAD:8265 too, or drop it")
        if self.wait is not None and self.address is None:
            raise ValueError(f"--wait {self.wait} needs --address; only a cluster that is joined can grow")

    @property
    def is_remote(self) -> bool:
        """Whether `--address` is a dashboard, whose cluster runs the whole command."""
        return self.address is not None and self.address.startswith(("http://", "https://"))
