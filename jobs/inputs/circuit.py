"""Which circuit of a head is asked for, and how what it writes is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from qkatlas.pipeline.circuit.kinds import BOTH, FOLDED, OV, QK

if TYPE_CHECKING:  # specs are checked before any of its code is loaded
    from qkatlas.pipeline.models.checkpoint import Checkpoint


class AsksForCircuit(Protocol):
    """A spec that has `--circuit` and what goes with it."""

    @property
    def circuit(self) -> str:
        """`qk`, `ov` or `both`."""
        ...

    @property
    def unembed(self) -> str | None:
        """How what is written is read; None = folded."""
        ...

    @property
    def scores(self) -> str:
        """Form of the attention score."""
        ...

    @property
    def offset(self) -> str | None:
        """Positions from key to query."""
        ...

    @property
    def exclude_hubs(self) -> float | None:
        """Share of rows from which their best key is left out."""
        ...


def attends(spec: AsksForCircuit) -> bool:
    """Whether QK tables are asked for."""
    return spec.circuit in (QK, BOTH)


def writes(spec: AsksForCircuit) -> bool:
    """Whether OV tables are asked for."""
    return spec.circuit in (OV, BOTH)


def require_circuit(spec: AsksForCircuit) -> None:
    """Check that the options of circuits go together.

    Raises:
        ValueError: if one is given that the circuit has no use for.
    """
    if spec.circuit == QK and spec.unembed is not None:
        raise ValueError(
            f"--unembed {spec.unembed} has no meaning with --circuit qk; choose --circuit ov or both, or leave it out"
        )
    if spec.circuit == OV:
        for flag, given in (
            ("--offset", spec.offset),
            ("--scores", None if spec.scores == "attention" else "bilinear"),
            ("--exclude-hubs", spec.exclude_hubs),
        ):
            if given is not None:
                raise ValueError(
                    f"{flag} {given} has no meaning with --circuit ov, which scores no attention; choose --circuit qk "
                    "or both, or leave it out"
                )


def require_written(spec: AsksForCircuit, checkpoint: Checkpoint) -> None:
    """Check that a model gives what OV tables are read by.

    Raises:
        ValueError: if it has no unembedding and they are asked for.
    """
    if writes(spec):
        checkpoint.require_unembedding("give --circuit qk, or a checkpoint that has it")


def with_circuit(settings: Mapping[str, Any], spec: AsksForCircuit) -> dict[str, Any]:
    """Settings that name the circuit where something is written: those of QK alone are what they have always been."""
    plain = {name: value for name, value in settings.items() if name not in ("circuit", "unembed")}
    return {**plain, "circuit": spec.circuit, "unembed": spec.unembed or FOLDED} if writes(spec) else plain
