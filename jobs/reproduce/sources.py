"""The runs of other jobs that a reproduction stands on, and what they say of the published figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qkatlas.jobs.ablation.job import AblationJob
from qkatlas.jobs.ablation.spec import Ablation
from qkatlas.jobs.full_vocab.job import FullVocabJob
from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.loop.job import Job
from qkatlas.jobs.reproduce import measures
from qkatlas.jobs.reproduce.features import FEATURES, feature_jobs, of_features
from qkatlas.jobs.reproduce.first_layer import first_layer, first_layer_jobs
from qkatlas.jobs.reproduce.known_tasks import known_tasks, task_jobs
from qkatlas.jobs.reproduce.published import DEFINED, PUBLISHED, Facts
from qkatlas.jobs.reproduce.verdicts import Measured, absent
from qkatlas.jobs.similarity.job import SimilarityJob
from qkatlas.jobs.similarity.spec import Similarity
from qkatlas.jobs.steering.job import SteeringJob
from qkatlas.jobs.steering.spec import RANKS, Steering
from qkatlas.outputs.runs.reader import list_matrix, read_rows, read_whole
from qkatlas.outputs.runs.run import Run
from qkatlas.pipeline.features.dictionary import Dictionary
from qkatlas.pipeline.text.categories import Categories

_FORMS = {DEFINED: "attention", PUBLISHED: "bilinear"}
"""Form of the score: the post writes the bilinear one, without biases and scale."""

_STEERING: dict[str, dict[str, Any]] = {
    DEFINED: {"skew": "keep", "eigenvalues": "all"},
    PUBLISHED: {"skew": "drop", "eigenvalues": "top"},
}

_ABLATED_PROMPTS, _ABLATED_WORDS = 128, 64
"""Of the published ablation; fewer words where the model reads fewer."""

_TOP = 10

_NO_WORDS = "no published category keeps two words that are one token of the vocabulary"
_NO_TOKENS = "the published list of frequent tokens is GPT-2's; give the model's own with --frequencies"

_Found = dict[tuple[str, str], Measured]


def keyword_words(facts: Facts) -> tuple[tuple[str, ...], ...]:
    """The published category words."""
    return tuple(map(tuple, facts.data["keyword_categories"].values()))


def has_words(words: tuple[tuple[str, ...], ...], model: Model) -> bool:
    """Whether prompts can be made of some categories."""
    return bool(Categories.fit(words, model.vocabulary).token_ids) and model.checkpoint.architecture.n_ctx > 1


def has_gpt2_vocabulary(facts: Facts, model: Model) -> bool:
    """Whether published token ids mean the published tokens here, by the ids and texts of the notebook's prompt."""
    ids, texts = facts.data["notebook"]["prompt_ids"], facts.data["notebook"]["prompt"]
    size, find = len(model.vocabulary.spellings), model.vocabulary.find
    pairs = list(zip(ids, texts, strict=True))[1:]  # BOS is no ordinary token
    return size == facts.data["shape"]["vocab_size"] and all(find(text) == token for token, text in pairs)


def source_jobs(
    facts: Facts,
    model: Model,
    tokens: tuple[int, ...] | None,
    runs: Mapping[str, Run],
    *,
    seed: int,
    dictionaries: Sequence[Dictionary] = (),
) -> Iterator[tuple[str, Job[Any]]]:
    """The jobs with the names that their runs have below, one at a time, for each holds token states.

    Args:
        facts: the published figures.
        model: the model.
        tokens: frequent tokens, the most frequent first; None where there is no list of them.
        runs: finished runs by their names, to which the caller adds each before it takes the next job: the second
            steering copies the first's kin.
        seed: of what the jobs draw.
        dictionaries: of features of the model's heads.

    Raises:
        ValueError: if the model has no such head.
    """
    shape = model.checkpoint.architecture
    for variant, form in _FORMS.items():
        spec = FullVocab(head=facts.head, scores=form, top_k=min(FullVocab.top_k, shape.vocab_size))
        yield f"full-vocab {variant}", FullVocabJob(spec, model)
    words = keyword_words(facts)
    if has_words(words, model):
        ablation = Ablation(
            targets=(facts.head,),
            layers=(0,),
            prompts=_ABLATED_PROMPTS,
            length=min(_ABLATED_WORDS, shape.n_ctx - 1),
            categories=words,
            loss=False,
            seed=seed,
        )
        yield "ablation", AblationJob(ablation, model)
    if tokens is not None:
        chosen = tokens[: facts.data["frequent_tokens"]["similarity"]]
        yield "similarity", SimilarityJob(Similarity(head=facts.head, tokens=chosen), model)
    for variant, form in _FORMS.items():
        steering = Steering(
            head=facts.head,
            scores=form,
            methods=("eigen",),
            alphas=tuple(facts.data["steering_alphas"]),
            controls=0,
            ranks=RANKS,  # no singular value is scaled; they count in the run's id, whatever the head's width
            top_k=min(Steering.top_k, shape.vocab_size),
            seed=seed,
            **_STEERING[variant],
        )
        yield f"steering {variant}", SteeringJob(steering, model, kin_of=runs.get(f"steering {DEFINED}"))
    yield from first_layer_jobs(facts, model)
    yield from feature_jobs(model, dictionaries)
    yield from task_jobs(model, seed=seed)


def found_in(facts: Facts, model: Model, runs: Mapping[str, Run]) -> _Found:
    """What finished runs say of the published figures.

    Args:
        facts: the published figures.
        model: the model.
        runs: by the names of `source_jobs`.

    Raises:
        ValueError: if a run is damaged.
    """
    found: _Found = {}
    for variant in _FORMS:
        run = runs[f"full-vocab {variant}"]
        found |= _self_rank(facts, model, variant, run) | _top10(facts, model, variant, run)
        points = {row["alpha"]: row for row in _eigen_points(runs[f"steering {variant}"])}
        found |= measures.steering(variant, facts.data["steering_alphas"], points)
    if "ablation" in runs:
        found |= measures.ablation(_medians(runs["ablation"]))
    else:
        found |= measures.all_absent(facts, "ablation", _NO_WORDS)
    if "similarity" in runs:
        found |= measures.similarity(DEFINED, read_whole(runs["similarity"], "similarity"))
    else:
        found |= measures.all_absent(facts, "similarity", _NO_TOKENS) | measures.all_absent(
            facts, "clusters", _NO_TOKENS
        )
    found |= first_layer(facts, model, runs) | of_features(facts, runs.get(FEATURES))
    return found | known_tasks(facts, runs)


def _self_rank(facts: Facts, model: Model, variant: str, run: Run) -> _Found:
    size = facts.data["shape"]["vocab_size"]
    if len(model.vocabulary.spellings) == size:
        return measures.self_rank(variant, read_whole(run, "self")["self_rank"].to_numpy())
    reason = f"ranks are among {size} tokens, and the model has {len(model.vocabulary.spellings)}"
    figures = measures.all_absent(facts, "self_rank", reason)
    return {key: value for key, value in figures.items() if key[1] == variant}


def _top10(facts: Facts, model: Model, variant: str, run: Run) -> _Found:
    texts = model.vocabulary.texts()
    known = {measures.bare(text) for text in texts}
    found: _Found = {}
    for word, published in facts.data["top10"].items():
        queries = [(text, model.vocabulary.find(text)) for text in (word, f" {word}")]
        here = {text: token for text, token in queries if token is not None}
        lacking = sorted({measures.bare(key) for key in published} - known)
        if not here or lacking:
            what = f"the keys {', '.join(lacking)} are" if here else f"{word!r} is"
            found[f"top10.{word}", variant] = absent(f"{what} no single token of the vocabulary")
            continue
        rows = read_rows(run, "topk", list(here.values()))
        keys = dict(zip(rows["token_id"].to_pylist(), list_matrix(rows, "key_ids")[:, :_TOP].tolist(), strict=True))
        lists = {text: [texts[key] for key in keys[token]] for text, token in here.items()}
        found |= measures.top10(word, variant, published, lists)
    return found


def _eigen_points(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_whole(run, "steering").to_pylist()
    return [row for row in rows if row["method"] == "eigen"]


def _medians(run: Run) -> dict[str, float]:
    """Median score over prompts with each component ablated."""
    table = read_whole(run, "prompt_scores")
    components, score = np.array(table["component"].to_pylist()), table["score"].to_numpy()
    return {str(name): float(np.median(score[components == name])) for name in np.unique(components)}
