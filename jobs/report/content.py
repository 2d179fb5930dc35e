"""`submit report`: which runs a report shows, and the sections that their jobs declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from qkatlas.jobs.loop.declaration import declarations
from qkatlas.jobs.report.section import Section, Shown
from qkatlas.outputs.report.pack import Pack
from qkatlas.outputs.runs import soundness, store
from qkatlas.outputs.runs.manifest import Manifest
from qkatlas.outputs.runs.provenance import Provenance
from qkatlas.outputs.runs.reader import table_names
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.text.vocabulary import printable


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run of a report.

    Attributes:
        run: the run, finished and sound.
        spec: its settings.
        tables: names of its tables.
        sections: what its job shows of them.
        sources: the runs that it goes on from, by the setting that names each.
    """

    run: Run
    spec: Mapping[str, Any]
    tables: frozenset[str]
    sections: tuple[Section, ...]
    sources: Mapping[str, Member] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.run.folder.name

    def source(self, section: Section) -> Member | None:
        """The run that one of its sections is drawn over."""
        return self.sources[section.source] if section.source else None

    def shown(self, pack: Pack, neighbours: int, source: Shown | None = None) -> Shown:
        """What its sections are built from."""
        head = self.spec.get("head")
        head = head if isinstance(head, str) else None
        return Shown(run=self.run, tables=self.tables, head=head, pack=pack, neighbours=neighbours, source=source)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What goes into a report."""

    members: tuple[Member, ...]
    """Finished runs, each once; those that others go on from among them."""
    neighbours: int = 10
    """Keys of each token that the report keeps, best first."""

    def __post_init__(self) -> None:
        if not 1 <= self.neighbours <= 64:
            raise ValueError(f"--neighbours {self.neighbours} is impossible; choose from 1 to 64")

    @classmethod
    def of(cls, runs: Sequence[Run], *, neighbours: int = 10) -> Self:
        """A report of some runs, with the runs that they go on from where a section is drawn over one of those.

        Args:
            runs: what the user named.
            neighbours: keys of each token to keep.

        Returns:
            The report.

        Raises:
            ValueError: if a run is not finished or damaged, shows nothing, or one that it goes on from is gone.
        """
        jobs = {
            name: declared.load(declared.sections) for name, declared in declarations().items() if declared.sections
        }
        chosen: dict[str, Member] = {}
        for run in runs:
            member = _member(run, jobs)
            settings = {section.source for section in member.sections if section.source}
            sources = {name: _member(_source(run, str(member.spec.get(name)), runs), jobs) for name in sorted(settings)}
            for one in (*sources.values(), replace(member, sources=sources)):
                chosen.setdefault(one.name, one)
        return cls(members=tuple(chosen.values()), neighbours=neighbours)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs, in the order of the page's list of them."""
        return tuple(member.run for member in self.members)

    def content(self) -> tuple[str, dict[str, str]]:
        """Read the runs and pack what the page shows of them.

        Returns:
            The page's title, and its data blocks by name.

        Raises:
            ValueError: if a table is damaged.
        """
        pack = Pack()
        number = {member.name: place for place, member in enumerate(self.members)}
        every = [(member, section, member.source(section)) for member in self.members for section in member.sections]
        covered = {(source.name, section.kind) for _, section, source in every if source}
        found: list[tuple[int, str, int, dict[str, Any]]] = []
        for member, section, source in every:
            if source is None and (member.name, section.kind) in covered:
                continue
            below = source.shown(pack, self.neighbours) if source else None
            built = section.build(member.shown(pack, self.neighbours, below))
            run = number[(source or member).name]
            found.append((section.place, section.kind, run, {"kind": section.kind, **built, "run": run}))
        sections = [section for *_, section in sorted(found, key=lambda entry: entry[:3])]
        runs = [described(run) for run in self.runs]
        heads = list(dict.fromkeys(section["head"] for section in sections if section.get("head")))
        what = f"Head {heads[0]}" if len(heads) == 1 else f"{len(heads)} heads" if heads else "Attention heads"
        title = f"{what} of {' and '.join(dict.fromkeys(run['model'] for run in runs))}"
        return title, pack.close({"title": title, "runs": runs, "sections": sections})


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


def _member(run: Run, jobs: Mapping[str, Sequence[Section]]) -> Member:
    """A run that is fit to be shown, with those of its job's sections that it has the tables for."""
    manifest = _finished(run)
    if store.status(run).state != "complete":
        faults = soundness.faults(run)
        raise ValueError(f"run {run.folder.name} is damaged: {faults[0]}; {soundness.remedy(run, faults)}")
    tables = frozenset(table_names(run))
    sections = tuple(section for section in jobs.get(manifest.request.job, ()) if tables.issuperset(section.needs))
    if not sections:
        raise ValueError(
            f"run {run.folder.name} has no table that a report shows; name runs of {', '.join(sorted(jobs))}"
        )
    return Member(run=run, spec=manifest.request.spec, tables=tables, sections=sections)


def _source(run: Run, wanted: str, named: Sequence[Run]) -> Run:
    """The run that another goes on from: one that was named too, or one beside it in the same store."""
    for one in (*named, *store.all_runs(run.folder.parent)):
        if one.folder.name.endswith(f"-{wanted}"):
            return one
    raise ValueError(
        f"the source of {run.folder.name}, run {wanted}, is neither named nor beside it; name it too, or submit its "
        "request again"
    )
