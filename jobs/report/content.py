"""`submit report`: which runs a report shows, and in which order its sections stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qkatlas.jobs.report.tables import (
    ablation_section,
    heads_section,
    reproduction_section,
    similarity_section,
    steering_section,
)
from qkatlas.jobs.report.tokens import tokens_section
from qkatlas.outputs.report.pack import Pack
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.manifest import Manifest
from qkatlas.outputs.runs.provenance import Provenance
from qkatlas.outputs.runs.reader import table_names
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.vocabulary import printable

_SHOWN = ("topk", "communities", "heads", "steering", "ablation", "similarity", "reproduction")
"""Tables that a section is made of; others only add to them."""

_KINDS = ("tokens", "heads", "steering", "ablation", "similarity", "reproduction")
"""Kinds of sections in the order of the page."""

_TOKENS, _MANY_HEADS = {"tokens", "topk", "self"}, {"heads", "steering"}
"""Tables of one head's tokens; and those of a run that has them for many heads, or for a head that was changed."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What goes into a report."""

    runs: tuple[Run, ...]
    """Finished runs, each once; a map's own source run among them."""
    neighbours: int = 10
    """Keys of each token that the report keeps, best first."""

    def __post_init__(self) -> None:
        if not 1 <= self.neighbours <= 64:
            raise ValueError(f"--neighbours {self.neighbours} is impossible; choose from 1 to 64")

    @classmethod
    def of(cls, runs: Sequence[Run], *, neighbours: int = 10) -> Report:
        """A report of some runs, with the full-vocab runs that their maps were made from.

        Args:
            runs: what the user named.
            neighbours: keys of each token to keep.

        Returns:
            The report.

        Raises:
            ValueError: if a run is not finished or damaged, shows nothing, or a map's source is gone.
        """
        chosen: dict[str, Run] = {}
        for run in runs:
            if "communities" in _tables(run):
                source = _source(run)
                chosen.setdefault(source.folder.name, source)
            chosen.setdefault(run.folder.name, run)
        return cls(runs=tuple(chosen.values()), neighbours=neighbours)

    def content(self) -> tuple[str, dict[str, str]]:
        """Read the runs and pack what the page shows of them.

        Returns:
            The page's title, and its data blocks by name.

        Raises:
            ValueError: if a table is damaged.
        """
        pack = Pack()
        sections = [section for run in self.runs for section in self._sections(run, pack)]
        order = {kind: place for place, kind in enumerate(_KINDS)}
        sections.sort(key=lambda section: order[section["kind"]])
        title = self._title(sections)
        index = {"title": title, "runs": [described(run) for run in self.runs], "sections": sections}
        return title, pack.close(index)

    def _sections(self, run: Run, pack: Pack) -> list[dict[str, Any]]:
        tables, number = table_names(run), self.runs.index(run)
        found = []
        if tables >= _TOKENS and not tables.intersection(_MANY_HEADS):
            maps = [one for one in self.runs if "communities" in table_names(one) and _source_id(one) == _run_id(run)]
            for one in maps or (None,):
                found.append(tokens_section(run, one, pack, self.neighbours))
        if "heads" in tables:
            found.append(heads_section(run, pack, spectrum="spectrum" in tables))
        if "steering" in tables:
            found.append(steering_section(run, pack))
        for table, section in _SMALL.items():
            if table in tables:
                found.append(section(run))
        return [{**section, "run": number} for section in found]

    def _title(self, sections: Sequence[dict[str, Any]]) -> str:
        models = list(dict.fromkeys(described(run)["model"] for run in self.runs))
        heads = list(dict.fromkeys(section["head"] for section in sections if section.get("head")))
        what = f"Head {heads[0]}" if len(heads) == 1 else f"{len(heads)} heads" if heads else "Attention heads"
        return f"{what} of {' and '.join(models)}"


_SMALL = {
    "ablation": ablation_section,
    "similarity": similarity_section,
    "reproduction": reproduction_section,
}


def described(run: Run) -> dict[str, Any]:
    """What a reader must know of a run: what was asked for, of which model, and with which code.

    Host, paths and the command line stay out: a report is made to be passed on.

    Args:
        run: a finished run.

    Returns:
        A JSON object.
    """
    manifest = _finished(run)
    origin = manifest.provenance or Provenance()
    model = (origin.model or "unknown model").rstrip("/").rpartition("/")[2]
    return {
        "name": run.folder.name,
        "job": manifest.request.job,
        "spec": manifest.request.spec,
        "model": printable(model.encode("utf-8", "backslashreplace")),
        "vocab_size": manifest.request.vocab_size,
        "weights_sha256": manifest.request.weights_sha256,
        "finished": origin.finished,
        "devices": list(origin.devices),
        "commit": origin.code.commit if origin.code else None,
        "version": origin.versions.get("qkatlas"),
        "rows": manifest.rows,
        "bytes": manifest.bytes,
    }


def _finished(run: Run) -> Manifest:
    manifest = run.manifest()
    if manifest is None:
        raise ValueError(
            f"run {run.folder.name} is not finished; submit the same request again to finish it, then report"
        )
    return manifest


def _tables(run: Run) -> set[str]:
    """The tables of a run that is fit to be shown."""
    _finished(run)
    if store.status(run).state != "complete":
        faults = soundness.faults(run)
        raise ValueError(f"run {run.folder.name} is damaged: {faults[0]}; {soundness.remedy(run, faults)}")
    tables = table_names(run)
    if not tables.intersection(_SHOWN):
        raise ValueError(f"run {run.folder.name} has no table that a report shows; name runs with {', '.join(_SHOWN)}")
    return tables


def _run_id(run: Run) -> str:
    return str(_finished(run).request.run_id)


def _source_id(run: Run) -> str:
    """Id of the run that a communities run was made from."""
    return str(_finished(run).request.spec["source"])


def _source(run: Run) -> Run:
    """The run that a map was made from, beside it in the same store."""
    wanted = _source_id(run)
    for one in store.all_runs(run.folder.parent):
        if one.folder.name.endswith(f"-{wanted}"):
            _tables(one)
            return one
    raise ValueError(
        f"the source of {run.folder.name}, run {wanted}, is not beside it; bring it back or submit its request again"
    )
