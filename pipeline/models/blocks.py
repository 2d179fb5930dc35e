"""Work on fixed blocks of rows.

A product's last bits may depend on its shape and on how many threads share it. Every block therefore has the same rows
whatever a run was given, and is computed by one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Value = TypeVar("Value")

BLOCK_ROWS = 1024
"""Rows in one block; fixed, because the shape of a product may change its last bit."""


def for_blocks(n_rows: int, work: Callable[[slice], None], threads: int, block_rows: int = BLOCK_ROWS) -> None:
    """Do some work on every block of rows, each block on one thread of its own.

    Args:
        n_rows: rows in all.
        work: called with each block's rows; writes to rows of its own only.
        threads: threads to use; no block's result depends on it.
        block_rows: rows of a block; a constant of the caller, never a function of the machine.
    """
    blocks = [slice(start, min(start + block_rows, n_rows)) for start in range(0, n_rows, block_rows)]
    # Torch keeps the number of its own threads per calling thread, so each pool thread sets it for itself.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(work, blocks):
            pass


def on_one_thread(work: Callable[[], Value]) -> Value:
    """Do some work on one thread of its own, so that no product or sum of it is shared by several.

    Args:
        work: called once.

    Returns:
        What it returned.
    """
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(work).result()
