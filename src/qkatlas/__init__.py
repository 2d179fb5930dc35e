"""Maps what attention heads do over a whole vocabulary.

`import qkatlas as qk` loads nothing else: a name below is found when it is first used; `__init__.pyi` has the types.

    qk.full_vocab(model, head="L1H5")   and a function for each other job; see docs/library.md
    qk.open(run)                        a finished run: tables, SQL, tokens, report
    qk.runs(out)                        the runs in a folder
"""

from importlib import import_module as _import_module

__version__ = "0.1.0"

_NAMES = {
    "open": "opened:open_run",
    "OpenedRun": "opened:OpenedRun",
    "Rows": "rows:Rows",
    "runs": "listed:runs",
}
"""Public names but the jobs', and what they are in `jobs/library/`."""


def __getattr__(name: str) -> object:
    if name.startswith("_"):
        raise AttributeError(f"module 'qkatlas' has no attribute {name!r}")
    if name in _NAMES:
        module, _, inner = _NAMES[name].partition(":")
        found = getattr(_import_module(f"qkatlas.jobs.library.{module}"), inner)
    elif name == "IncompleteError":
        found = _import_module("qkatlas.jobs.loop.result").IncompleteError
    else:
        declared = _jobs().get(name)
        if declared is None:
            raise AttributeError(f"module 'qkatlas' has no attribute {name!r}; see dir(qkatlas)")
        found = _import_module("qkatlas.jobs.library.functions").function_of(declared)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, "IncompleteError", *_jobs()})


def _jobs() -> dict:
    declared = _import_module("qkatlas.jobs.loop.declaration").declarations()
    return {name.replace("-", "_"): one for name, one in declared.items()}
