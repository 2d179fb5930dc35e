"""`submit`, `qkatlas` and `python -m qkatlas`: the command line."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit; signals are answered before the rest of the program is loaded."""
    from qkatlas.cluster.processes import leave
    from qkatlas.jobs.cli.signals import Interrupted, answer_signals, interrupted, require_no_signal
    from qkatlas.jobs.cli.streams import tolerate_leaving_readers

    tolerate_leaving_readers()
    try:
        answer_signals()
        try:
            from qkatlas.jobs.main import main as run
        finally:
            require_no_signal()
    except (Interrupted, KeyboardInterrupt) as error:
        leave(interrupted(error))
    run()


if __name__ == "__main__":
    main()
