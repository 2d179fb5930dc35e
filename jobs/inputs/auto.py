"""Which token states hold in a model: `--states auto`, decided once a model by its own scores on the calibration text.

Half of the text's passages give the windows of the states `context`, the other half is what scores are compared on, so
that no token is read behind the very text that it is then measured in.

Shapes: B passages, T positions of each, L layers, N query heads of a layer.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qkatlas.cluster.cpus import local_cpus
from qkatlas.jobs.inputs.cache import kept_in
from qkatlas.jobs.inputs.model import Model
from qkatlas.pipeline.circuit.context import ContextStates
from qkatlas.pipeline.circuit.kinds import CONTEXT, DRAWS, PREFIX, WINDOWS
from qkatlas.pipeline.circuit.states import States
from qkatlas.pipeline.circuit.text_streams import text_loss
from qkatlas.pipeline.models.architecture import Architecture
from qkatlas.pipeline.passes.text_fidelity import text_fidelity
from qkatlas.pipeline.text.calibration import LENGTH, different_windows, read_passages, spread
from qkatlas.pipeline.text.tokenizer import TOKENIZER_FILES

POSITIONS = 32
"""Tokens of a passage that scores are compared on."""

MARGIN = 0.05
"""By how much a kind that costs more must be better: `prefix` than `mlp`, and `context` than either."""

LEARNED = 1.0
"""Nats a token by which a model must predict the text better than by guessing; likeliest windows mean nothing else."""

_SPECIAL = 4
"""Control tokens that are tried as a prefix, the first by their ids after BOS."""

_VERSION = 1
"""Of the rule; a decision by another is made anew."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What `auto` means in a model.

    Attributes:
        kind: `mlp`, `prefix` or `context`.
        prefix: tokens in front, of the kinds `prefix` and `context`.
        fidelity: for each candidate the median over heads behind layer 0 of the correlation within rows with the real
            scores, where they were compared.
        reason: why it is this one, in words.
    """

    kind: str
    prefix: tuple[int, ...] = ()
    fidelity: Mapping[str, float]
    reason: str


def decide(model: Model) -> Decision:
    """The kind and prefix of token states that predict a model's own scores best, kept in the user's cache.

    It is `mlp` where there is nothing to compare on: planted checkpoints, whose known truth is about these states, one
    layer alone, models without a tokenizer or logits, and such as have not learned to predict the text, as those of
    random weights.

    Args:
        model: the model.
    """
    checkpoint = model.checkpoint
    a = checkpoint.architecture
    reason = unmeasured(checkpoint.path, a)
    if reason is None and not model.vocabulary.has_tokenizer:
        reason = "the tokenizer cannot be read"
    if reason is not None:
        return Decision(kind="mlp", fidelity={}, reason=reason)
    file = _file(model)
    kept = None if file is None else _read(file)
    if kept is not None:
        return kept
    try:
        checkpoint.require_unembedding("windows of text are chosen by them")
        ids = read_passages(checkpoint.path, a.vocab_size)
    except ValueError as error:
        return Decision(kind="mlp", fidelity={}, reason=str(error))
    model.say("deciding which token states hold in this model, once; --states mlp needs no such decision")
    decision = _measure(model, ids)
    if file is not None:
        _keep(file, decision)
    return decision


def unmeasured(path: Path, architecture: Architecture) -> str | None:
    """Why nothing can be measured in a model, so that its states are `mlp`; None if it can.

    Args:
        path: the checkpoint directory, or a GGUF file.
        architecture: of the model.
    """
    if (path / "truth.json").is_file():
        return "planted heads are made for them"
    if architecture.n_layers == 1 or architecture.n_ctx <= LENGTH + 1:
        return "the model has one layer, or hardly a position, to compare in"
    if not path.is_file() and not any((path / name).is_file() for name in TOKENIZER_FILES):
        return "the model has no tokenizer to read the calibration text with"
    return None


def _measure(model: Model, ids: list[list[int]]) -> Decision:
    checkpoint, threads = model.checkpoint, local_cpus()
    length = min(POSITIONS, checkpoint.architecture.n_ctx)
    compared, pool = ids[::2], different_windows(ids[1::2])
    cut = [passage[at : at + length] for passage in compared for at in range(0, len(passage) - length + 1, length)]
    if not cut or len(pool) < DRAWS:
        return Decision(kind="mlp", fidelity={}, reason="the tokenizer makes too few tokens of the calibration text")
    tokens_BT = np.array(cut, np.int64)
    loss, guessing = text_loss(checkpoint, tokens_BT, threads=threads), math.log(checkpoint.architecture.vocab_size)
    if not loss < guessing - LEARNED:  # nor where it is no number
        reason = f"the model has not learned the calibration text: {loss:.2f} nats a token, {guessing:.2f} by guessing"
        return Decision(kind="mlp", fidelity={}, reason=reason)
    token_ids = np.unique(tokens_BT).tolist()

    def begin(kind: str, prefix: tuple[int, ...] = ()) -> States:
        return model.token_states(kind, layer=0, prefix=prefix, token_ids=token_ids, threads=threads)

    def measured(states: Mapping[str, States]) -> dict[str, float]:
        found = text_fidelity(checkpoint, tokens_BT, states, threads=threads)
        medians = {name: float(np.median(np.nan_to_num(of_LN[1:], nan=0.0))) for name, of_LN in found.items()}
        return {name: round(median, 4) for name, median in medians.items()}

    prefixes = {_named(PREFIX, prefix): prefix for prefix in _prefixes(model)}
    cheap = {"mlp": begin("mlp"), **{name: begin(PREFIX, prefix) for name, prefix in prefixes.items()}}
    fidelity = measured(cheap)
    best: str = "mlp"
    prefix: tuple[int, ...] = ()
    if prefixes:
        likeliest = max(prefixes, key=lambda name: fidelity[name])
        prefix = prefixes[likeliest]
        windows_WT = spread(pool, min(WINDOWS, len(pool)))
        context = ContextStates(
            checkpoint, windows_WT, prefix=prefix, draws=DRAWS, token_ids=token_ids, threads=threads
        )
        name = _named(CONTEXT, prefix)
        fidelity |= measured({name: context})
        for costlier in (likeliest, name):
            best = costlier if fidelity[costlier] > fidelity[best] + MARGIN else best
    kind = best.split()[0]
    shown = ", ".join(f"{name} {value:.2f}" for name, value in fidelity.items())
    return Decision(
        kind=kind,
        prefix=() if kind == "mlp" else prefix,
        fidelity=fidelity,
        reason=f"median fidelity of heads behind layer 0 on the calibration text: {shown}",
    )


def _named(kind: str, prefix: tuple[int, ...]) -> str:
    return f"{kind} {','.join(f'#{token_id}' for token_id in prefix)}"


def _prefixes(model: Model) -> list[tuple[int, ...]]:
    """BOS, some other control tokens, and a new line, as far as the model has them and reads a window behind."""
    a, vocabulary = model.checkpoint.architecture, model.vocabulary
    if a.n_ctx < LENGTH + 2:
        return []
    bos = [] if a.bos_token_id is None else [a.bos_token_id]
    special = [token_id for token_id, is_special in enumerate(vocabulary.special) if is_special]
    line = [] if (found := vocabulary.find("\n")) is None else [found]
    return [(token_id,) for token_id in dict.fromkeys([*bos, *special[:_SPECIAL], *line])]


def _file(model: Model) -> Path | None:
    folder, identity = kept_in("auto"), json.dumps(model.identity, sort_keys=True)
    return folder and folder / f"{hashlib.sha256(f'{_VERSION} {identity}'.encode()).hexdigest()[:32]}.json"


def _read(file: Path) -> Decision | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        kept["prefix"] = tuple(kept["prefix"])
        decision = Decision(**kept)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return decision if decision.kind in ("mlp", PREFIX, CONTEXT) else None


def _keep(file: Path, decision: Decision) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(decision), indent=1) + "\n", encoding="utf-8")
        part.replace(file)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
