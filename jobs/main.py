"""The command `submit`."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

import click

from qkatlas.cluster.executor import ClusterLostError
from qkatlas.cluster.processes import leave
from qkatlas.jobs.cli.command import command_of
from qkatlas.jobs.cli.ending import BAD_REQUEST, COMPLETE, INCOMPLETE, say
from qkatlas.jobs.cli.help import EXAMPLES, HELP, Sections, example_of_job
from qkatlas.jobs.cli.plan import plan_command
from qkatlas.jobs.cli.planted import model
from qkatlas.jobs.cli.remote import list_jobs, logs, stop
from qkatlas.jobs.cli.rerun import rerun_command
from qkatlas.jobs.cli.signals import Interrupted, answer_signals, interrupted, require_no_signal
from qkatlas.jobs.cli.store import runs, status, verify
from qkatlas.jobs.cli.streams import flush, tolerate_leaving_readers
from qkatlas.jobs.diff.command import diff
from qkatlas.jobs.find.command import find
from qkatlas.jobs.loop.declaration import declarations
from qkatlas.jobs.publish.command import publish
from qkatlas.jobs.query.command import sql
from qkatlas.jobs.relations.command import relations
from qkatlas.jobs.report.command import report
from qkatlas.jobs.show.command import show


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 all committed, 1 some shard could not be computed, 2 a bad request."""
    tolerate_leaving_readers()
    try:
        answer_signals()
        code = run(list(sys.argv[1:] if argv is None else argv))  # noqa: TID251 - the one place
        unwritten = flush()
        if unwritten and code == COMPLETE:
            code = say(f"error: what was to be printed cannot be written ({unwritten}); results are kept", INCOMPLETE)
    except Interrupted as error:
        code = interrupted(error)
    # Not by the interpreter's own end: native threads, as Arrow's, still let go of what Python owns, and one that asks
    # a Python that is ending for it takes the process down (`terminate called without an active exception`).
    leave(code)


def run(argv: Sequence[str]) -> int:
    """Run the command line.

    Args:
        argv: arguments after the command's name.

    Returns:
        The exit code.
    """
    try:
        try:
            done = submit.main(args=list(argv), prog_name="submit", standalone_mode=False)
        finally:
            require_no_signal()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return BAD_REQUEST
    except click.ClickException as error:
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "submit"
        return _refuse(f"{error.format_message().rstrip('.')}; see {hint} --help")
    except (Interrupted, click.Abort, KeyboardInterrupt) as error:
        return interrupted(error)
    except ValueError as error:
        return _refuse(str(error))
    except ClusterLostError as error:
        return say(f"error: {error}; what was committed is kept, submit the same request again", INCOMPLETE)
    except PermissionError as error:
        return _refuse(f"{error.filename} may not be read or written by this user; change its mode or choose another")
    except OSError as error:
        if error.errno is None:  # what pyarrow raises for an object store, and we for a run
            return say(f"error: {' '.join(str(error).split())}; what was committed is kept, submit again", INCOMPLETE)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return say(
                f"error: the disk is full ({error.filename or error.strerror}); committed shards are kept, "
                "make room and submit again",
                INCOMPLETE,
            )
        if error.errno in _NO_SUCH_PATH:
            return _refuse(f"{_short(error.filename)} cannot be used ({error.strerror}); choose another name")
        what = f"{error.strerror} ({_short(error.filename)})" if error.filename else error.strerror
        return say(f"error: {what}; what was committed is kept, submit the same request again", INCOMPLETE)
    return done if isinstance(done, int) else COMPLETE


_NO_SUCH_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENOENT)
"""What a file system says of paths that a request should not have named."""


def _short(path: object) -> str:
    text = str(path)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _refuse(message: str) -> int:
    return say(f"error: {' '.join(message.split())}", BAD_REQUEST)


@click.group(
    cls=Sections,
    epilog="submit COMMAND -h has its options, an example, and the page that describes it.",
    context_settings={"help_option_names": HELP, "max_content_width": 120},
)
@click.version_option(package_name="qkatlas", prog_name="submit")
def submit() -> None:
    """Map what attention heads do over a model's whole vocabulary."""


_DECLARED = declarations()
_JOBS = {name: command_of(declared) for name, declared in _DECLARED.items()}

_EXAMPLES = dict(EXAMPLES)
for declared in _DECLARED.values():
    _EXAMPLES |= example_of_job(declared.name, declared.example)

for title, commands in {
    "Jobs, which compute a run": (*_JOBS.values(), rerun_command(_DECLARED, _JOBS)),
    "Questions to a model or a plan, which leave no run": (find, relations, plan_command(_DECLARED)),
    "What a finished run says": (show, sql, diff, report, publish),
    "Where runs stand": (runs, status, verify),
    "Jobs that a cluster was handed": (list_jobs, logs, stop),
    "Checkpoints": (model,),
}.items():
    submit.add_section(title, commands, _EXAMPLES)
