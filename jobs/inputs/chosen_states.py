"""Token states as a request chooses them, fitted to a model: their tokens, what identifies them, and their beginning.

Shapes: W windows, T tokens of a window.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qkatlas.jobs.inputs.auto import Decision, decide
from qkatlas.jobs.inputs.cache import kept_in
from qkatlas.jobs.inputs.model import Model
from qkatlas.pipeline.circuit.context import ContextStates
from qkatlas.pipeline.circuit.kept import KeptStates
from qkatlas.pipeline.circuit.kinds import AUTO, CONTEXT, DRAWS, PREFIX, WINDOWS
from qkatlas.pipeline.circuit.states import States, require_room
from qkatlas.pipeline.text.calibration import LENGTH, calibration_windows
from qkatlas.pipeline.text.tokenizer import encode_each

_IDS = re.compile(r"#\d{1,9}(,#\d{1,9})*", re.ASCII)


class AsksForStates(Protocol):
    """A spec with the options of states, each declared in `fields`."""

    @property
    def states(self) -> str:
        """`--states`."""
        ...

    @property
    def prefix(self) -> str | None:
        """`--prefix`."""
        ...

    @property
    def windows(self) -> int | None:
        """`--windows`."""
        ...

    @property
    def draws(self) -> int | None:
        """`--draws`."""
        ...

    @property
    def text(self) -> str | None:
        """The content of `--text`."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenStates:
    """How token states are taken.

    Attributes:
        kind: one of ALL_STATES.
        prefix: tokens in front, of the kinds `prefix` and `context`.
        windows_WT: int64 [W, T], windows of text; of the kind `context`.
        draws: windows that a token is read behind.
        decision: how `--states auto` came to be these; None where they were asked for.
    """

    kind: str
    prefix: tuple[int, ...] = ()
    windows_WT: npt.NDArray[np.int64] | None = None
    draws: int = DRAWS
    decision: Decision | None = None

    @classmethod
    def fitted(cls, spec: AsksForStates, model: Model) -> ChosenStates:
        """The states that a request means.

        Args:
            spec: what is asked for.
            model: the model.

        Raises:
            ValueError: if the model cannot read the prefix or the calibration text, gives no logits to choose windows
                by, or has no position left for a token.
        """
        kind, a = spec.states, model.checkpoint.architecture
        if kind == AUTO:
            return cls._decided(model)
        if kind == PREFIX:
            assert spec.prefix is not None, "the spec has checked it"
            prefix = prefix_tokens(spec.prefix, model)
            require_room(prefix, a, kind)
            return cls(kind=kind, prefix=prefix)
        if kind != CONTEXT:
            return cls(kind=kind)
        model.checkpoint.require_unembedding("--states context chooses windows by them; take --states prefix or mlp")
        if spec.prefix is not None:
            prefix = prefix_tokens(spec.prefix, model)
        elif a.bos_token_id is not None:
            prefix = (a.bos_token_id,)
        else:
            raise ValueError(f"the model's {a.vocab_size} tokens have no BOS; give --prefix the tokens in front")
        require_room([*prefix, *(0,) * LENGTH], a, kind)
        windows_WT = calibration_windows(model.checkpoint.path, a.vocab_size, spec.windows or WINDOWS, text=spec.text)
        return cls(kind=kind, prefix=prefix, windows_WT=windows_WT, draws=spec.draws or DRAWS)

    @classmethod
    def _decided(cls, model: Model) -> ChosenStates:
        """What `--states auto` means."""
        decision = decide(model)
        windows_WT = None
        if decision.kind == CONTEXT:
            checkpoint = model.checkpoint
            windows_WT = calibration_windows(checkpoint.path, checkpoint.architecture.vocab_size, WINDOWS)
        return cls(kind=decision.kind, prefix=decision.prefix, windows_WT=windows_WT, decision=decision)

    def notes(self) -> Iterable[str]:
        """A line on what `--states auto` means in the model, where it was asked for and measured."""
        if self.decision is not None and self.decision.fidelity:
            behind = "".join(f" behind #{token_id}" for token_id in self.prefix)
            yield f"token states: {self.kind}{behind}; {self.decision.reason}"

    def within(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A run's settings with what of the states identifies it; of those that need no tokens that is their kind."""
        settings = {
            name: value for name, value in settings.items() if name not in ("prefix", "windows", "draws", "text")
        }
        settings["states"] = self.kind
        if self.kind in (PREFIX, CONTEXT):
            settings["prefix"] = list(self.prefix)
        if self.windows_WT is not None:
            text = hashlib.sha256(np.ascontiguousarray(self.windows_WT, "<i8").tobytes()).hexdigest()
            settings |= {"windows": len(self.windows_WT), "windows_sha256": text, "draws": self.draws}
        return settings

    def begin(self, model: Model, *, layer: int, token_ids: Sequence[int] | None = None, threads: int) -> States:
        """States in front of layer 0, ready to go on to a later layer; the whole vocabulary's are kept on disk.

        Args:
            model: the model.
            layer: the last layer they will be taken to.
            token_ids: the tokens; None = the whole vocabulary, in its order.
            threads: threads to use; no state depends on it.

        Raises:
            ValueError: if the model cannot give this kind.
        """
        if token_ids is not None:
            return self._computed(model, layer, token_ids, threads)
        return KeptStates(
            lambda: self._computed(model, layer, None, threads),
            {"model": model.identity, **self.within({})},
            cache=kept_in("states"),
            every_layer=self.kind == CONTEXT,
        )

    def _computed(self, model: Model, layer: int, token_ids: Sequence[int] | None, threads: int) -> States:
        if self.windows_WT is None:
            return model.token_states(self.kind, layer=layer, prefix=self.prefix, token_ids=token_ids, threads=threads)
        return ContextStates(
            model.checkpoint,
            self.windows_WT,
            prefix=self.prefix,
            draws=self.draws,
            token_ids=token_ids,
            threads=threads,
        )


def prefix_tokens(text: str, model: Model) -> tuple[int, ...]:
    """The tokens that `--prefix` means.

    Args:
        text: `#0,#28` for ids; anything else is read by the model's own tokenizer, special tokens in it as such.
        model: the model.

    Raises:
        ValueError: if it holds no token or one outside the vocabulary, or the model has no tokenizer to read it with.
    """
    size = model.checkpoint.architecture.vocab_size
    if _IDS.fullmatch(text):
        ids = [int(number) for number in text.replace("#", "").split(",")]
    else:
        remedy = "write ids such as #0,#28"
        (ids,) = encode_each(model.checkpoint.path, [text], option=f"--prefix {text!r}", remedy=remedy)
    if not ids:
        raise ValueError(f"--prefix {text!r} holds no token of the model; give a text or ids such as #0,#28")
    if max(ids) >= size:
        raise ValueError(f"--prefix {text!r} names token {max(ids)}, but the vocabulary's ids end at {size - 1}")
    return tuple(ids)
