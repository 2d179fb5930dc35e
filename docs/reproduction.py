"""Prints docs/reproduction.md: the published figures, how each is judged, and what was measured where.

python docs/reproduction.py > docs/reproduction.md
"""

from __future__ import annotations

from qkatlas.jobs.reproduce.published import Facts, Figure, facts

HEAD = """# Published figures

Written by `python docs/reproduction.py > docs/reproduction.md` from `jobs/reproduce/data/published.json`. The figures
are of L1H5 of GPT-2 small. `submit reproduce --model gpt2` measures them, in one run that stands on runs of the other
jobs, and says of each whether it is reproduced, differs or is not comparable; `--model DIR` takes a local directory,
such as that of `hf download gpt2 --local-dir DIR`. We had no weights of GPT-2: that column waits for whoever has them.

*Defined* means by this project's definitions: attention scores with biases and scale, token states `mlp`, self known by
id. *Published* means as the authors' text or code has it, where that differs:

- top 10 lists, own ranks: the bilinear score, without biases and scale;
- steering: the bilinear score of the symmetric part alone, its 64 eigenvalues largest by magnitude;
- similarity curve: the self score that is subtracted is the key's, a slip of broadcasting. It moves no mean: (t, u) and
  (u, t) have one cosine and lie in one bin, so that over all ordered pairs both self scores have the same sum;
- clusters: rows of scores are taken for keys;
- singular values: W_Q and W_K centred over the residual stream, as the authors' library does on loading. That changes
  no score, for states are centred too;
- where the first layer's heads look: the query that stands for all is that of " the", one stopword, not the mean query
  of all tokens. Means are exact in both; the source takes LayerNorm as linear, which no row here does.

Other slips of the authors' code, in a normalisation and in precision at k, have no row: no published figure rests on
them.

Some findings prove little, for heads of random weights show them too. The 33 of 64 negative eigenvalues stand beside
their null, random heads with the same singular values; a mean own rank within a factor of 3 is also that of chance,
half the vocabulary; the own rank tends to fall with alpha in any head with negative eigenvalues; and communities can be
found in any graph of nearest keys. The full-size planted model reproduces 13 of the 55 rows that were measured before
those of the first layer's kernels, those that its truth gives it, and none of the kernels' as defined: it plants none.
A copy with shuffled weights has the 33 negative eigenvalues too, their null, the mean own rank, and the steps of alpha
with attention scores; it fails all else that the planted model reproduces.

Planted weights under GPT-2's own token texts and ids take the path that the real weights will: of those 55 rows 51 were
compared, and 15 were reproduced. Its top 10 lists, own ranks, similarity
curve, spectrum, steered ranks and notebook score agree with NumPy in float64 and with Hugging Face. On 2 cores that had
other work too it took 16 minutes, and 5.1 GB in all processes.
"""

NOT_YET = "needs the real weights"


def page(known: Facts) -> str:
    """The page's text."""
    lines = [
        HEAD,
        "| figure | what | as | published | reproduced if | why | measured on GPT-2 small |",
        "|---" * 7 + "|",
    ]
    for figure in known.figures:
        lines += [_row(figure, variant) for variant in figure.variants]
    lines += ["", "## Sources", ""]
    lines += [f"- {title}: {', '.join(_of(known, source))}" for source, title in known.sources.items()]
    return "\n".join([*lines, ""])


def _row(figure: Figure, variant: str) -> str:
    judged = "never: not comparable" if figure.rule == "unmeasured" else _condition(figure)
    number = "" if figure.published is None else f"{figure.published:g}"
    published = f"{number} {figure.unit}".strip() if figure.published_text == number else figure.published_text
    measured = "not measured" if figure.rule == "unmeasured" else NOT_YET
    cells = [f"`{figure.figure}`", figure.what, variant.removeprefix("as "), published, judged, figure.why, measured]
    name, *texts = cells
    return " | ".join(["| " + name, *(text.replace("|", "\\|").replace("_", "\\_") for text in texts)]) + " |"


def _condition(figure: Figure) -> str:
    """The measured values that count as reproduced, with their unit where the rule names a value itself."""
    return f"{figure.tolerance} {figure.unit}".strip() if figure.rule == "at_least" else figure.tolerance


def _of(known: Facts, source: str) -> list[str]:
    """Groups of figures from a source."""
    groups = [figure.figure.partition(".")[0] for figure in known.figures if source in figure.sources]
    return list(dict.fromkeys(groups))


if __name__ == "__main__":
    print(page(facts()), end="")
