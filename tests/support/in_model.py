"""What a head does inside a model, counted key by key."""

from __future__ import annotations

import numpy as np

from qkatlas.pipeline.passes.steering import InModel
from qkatlas.pipeline.text.prompts import CategoryPrompts


def counted(pattern_PTT: np.ndarray, log_p: np.ndarray, prompts: CategoryPrompts) -> InModel:
    """The measures of a head's attention [P, T, T] and of the model's log-probabilities [P, T, V]."""
    masses = np.zeros((3, *prompts.tokens_PT.shape))
    for p, tokens in enumerate(prompts.tokens_PT):
        for q in range(1, len(tokens)):
            for k in range(q + 1):
                same = prompts.categories_PT[p, q] == prompts.categories_PT[p, k]
                masses[0, p, q] += pattern_PTT[p, q, k] * (tokens[k] == tokens[q])
                masses[1, p, q] += pattern_PTT[p, q, k] * (k > 0 and same and tokens[k] != tokens[q])
                masses[2, p, q] += pattern_PTT[p, q, k] * (k == 0)
    loss = [-np.mean([log_p[p, q, row[q + 1]] for q in range(len(row) - 1)]) for p, row in enumerate(prompts.tokens_PT)]
    return InModel(*(mass[:, 1:].mean(axis=1) for mass in masses), np.array(loss))
