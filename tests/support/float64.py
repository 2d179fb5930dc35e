"""transformers in float64 all through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def all_in_float64() -> Iterator[None]:
    """transformers takes norms, angles and softmax in float32 whatever a model's precision is; here all is float64."""
    of_float, of_to, of_softmax = torch.Tensor.float, torch.Tensor.to, torch.nn.functional.softmax

    def to(self: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        return of_to(self, *(torch.float64 if one is torch.float32 else one for one in arguments), **named)

    def softmax(scores: torch.Tensor, *arguments: Any, dtype: Any = None, **named: Any) -> torch.Tensor:
        return of_softmax(scores, *arguments, **named)

    torch.Tensor.float, torch.Tensor.to = torch.Tensor.double, to  # type: ignore[method-assign,assignment]
    torch.nn.functional.softmax = softmax
    try:
        yield
    finally:
        torch.Tensor.float, torch.Tensor.to = of_float, of_to  # type: ignore[method-assign]
        torch.nn.functional.softmax = of_softmax
