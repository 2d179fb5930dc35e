"""Benchmark of the scoring engine against its peers: `python -m benchmarks.scoring [--json]`.

Every contender runs in turn, round after round, in one process, so that a busy machine slows all alike; medians over
the rounds are compared. Ours always includes what the peers leave out: canonical float64 order, the self rank and the
row moments. Needs faiss-cpu on CPU; on CUDA only what the engine itself needs.

Contenders: `ours`; `gemm`, the float32 product alone, tile by tile into buffers, on as many threads; `faiss`,
faiss.knn by inner product; `faiss+rank`, the same and a product pass that counts scores above the own key's; `torch`,
torch.matmul and torch.topk on blocks of rows, with the rank; on CUDA `torch` and `gemm` run on the device.

`--model smollm2 --head L1H5` takes a learned head's queries and keys instead of synthetic ones.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.machine import describe_machine
from benchmarks.real_head import real_head
from qkatlas.cluster.cpus import local_cpus
from qkatlas.pipeline.scoring.engine import score_rows
from qkatlas.pipeline.scoring.rows import PreparedKeys, RowScores

Matrix: TypeAlias = npt.NDArray[np.float32]

HEADLINE_VOCABULARY = 50257
DATA = ("iid", "anisotropic")
CORE_TYPES = ("", "HASWELL", "SKYLAKEX", "COOPERLAKE", "SAPPHIRERAPIDS", "ZEN")
TORCH_ROWS = 2048
CHECKED_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One scoring problem.

    Attributes:
        queries_RH: float32 queries, of the first R tokens.
        keys_VH: float32 keys.
        k: keys kept a row.
        threads: CPU threads for every contender.
        device: "cpu" or "cuda".
    """

    queries_RH: Matrix
    keys_VH: Matrix
    k: int
    threads: int
    device: str


def make_data(kind: str, rows: int, vocabulary: int, width: int) -> tuple[Matrix, Matrix]:
    """Return queries and keys: `iid` standard normal, or `anisotropic` as heads are.

    Anisotropic: a rotated spectrum i^-0.7, a common offset as large as the spread, uneven key norms.
    """
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((rows, width))
    keys = rng.standard_normal((vocabulary, width))
    if kind == "anisotropic":
        rotation = np.linalg.qr(rng.standard_normal((width, width)))[0]
        spectrum = np.arange(1, width + 1) ** -0.7
        keys = keys * spectrum * np.exp(0.3 * rng.standard_normal((vocabulary, 1))) @ rotation
        queries = queries * spectrum @ rotation
        keys += rng.standard_normal(width)
        queries += rng.standard_normal(width)
    return queries.astype(np.float32), keys.astype(np.float32)


def run_ours(problem: Problem, prepared: PreparedKeys) -> RowScores:
    """Run the engine on all rows."""
    rows, width = problem.queries_RH.shape
    return score_rows(
        problem.queries_RH,
        prepared,
        row_ids_R=np.arange(rows),
        k=problem.k,
        scale=width**-0.5,
        threads=problem.threads,
    )


def run_tiles(problem: Problem, count_above: bool = False) -> None:
    """Compute the product alone in 512 x 1024 tiles, one thread per core; optionally count scores above self."""
    rows, keys = len(problem.queries_RH), torch.from_numpy(problem.keys_VH)
    queries = torch.from_numpy(problem.queries_RH)
    tiles = [part.T for part in torch.split(keys, 1024)]

    def run(start: int) -> None:
        torch.set_num_threads(1)
        part = queries[start : start + 512]
        own_R1 = (part * keys[start : start + len(part)]).sum(dim=1, keepdim=True)
        for tile in tiles:
            scores = torch.mm(part, tile, out=_buffer(len(part), tile.shape[1]))
            if count_above:
                (scores > own_R1).sum(dim=1)

    with ThreadPoolExecutor(problem.threads) as pool:
        list(pool.map(run, range(0, rows, 512)))


_buffers: dict[tuple[int, int, int], torch.Tensor] = {}


def _buffer(rows: int, columns: int) -> torch.Tensor:
    key = (threading.get_ident(), rows, columns)
    if key not in _buffers:
        _buffers[key] = torch.empty(rows, columns)
    return _buffers[key]


def run_faiss(problem: Problem, rank: bool = False) -> None:
    """Run faiss.knn by inner product, and a separate pass for the self rank if asked."""
    import faiss

    faiss.omp_set_num_threads(problem.threads)
    faiss.knn(problem.queries_RH, problem.keys_VH, problem.k, metric=faiss.METRIC_INNER_PRODUCT)
    if rank:
        run_tiles(problem, count_above=True)


def run_torch(problem: Problem, queries: torch.Tensor, keys: torch.Tensor, block_rows: int) -> None:
    """Run torch.matmul and torch.topk with the self rank on blocks of rows."""
    torch.set_num_threads(problem.threads)
    for start in range(0, len(queries), block_rows):
        part = queries[start : start + block_rows]
        scores = part @ keys.T
        own_R1 = scores[torch.arange(len(part)), torch.arange(start, start + len(part))][:, None]
        torch.topk(scores, problem.k, dim=1)
        (scores > own_R1).sum(dim=1)


def timed(work: Callable[[], Any], device: str) -> float:
    """Return the seconds one call takes, device work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def measure(problem: Problem, repeats: int, with_torch: bool) -> dict[str, float]:
    """Return median seconds of every contender over interleaved rounds (the first, a warm-up, is dropped)."""
    prepared = PreparedKeys(problem.keys_VH, device=problem.device)
    contenders: dict[str, tuple[Callable[[], Any], float]] = {"ours": (lambda: run_ours(problem, prepared), 1.0)}
    rows = len(problem.queries_RH)
    if problem.device == "cuda":
        queries, keys = (torch.from_numpy(part).cuda() for part in (problem.queries_RH, problem.keys_VH))
        out = torch.empty(min(8192, rows), len(keys), device="cuda")

        def gemm() -> None:
            for part in torch.split(queries, 8192):
                torch.mm(part, keys.T, out=out[: len(part)])

        contenders["gemm"] = (gemm, 1.0)
        contenders["torch"] = (lambda: run_torch(problem, queries, keys, 8192), 1.0)
    else:
        contenders["gemm"] = (lambda: run_tiles(problem), 1.0)
        contenders["faiss"] = (lambda: run_faiss(problem), 1.0)
        contenders["faiss+rank"] = (lambda: run_faiss(problem, rank=True), 1.0)
        if with_torch:
            few, all_keys = torch.from_numpy(problem.queries_RH[:TORCH_ROWS]), torch.from_numpy(problem.keys_VH)
            contenders["torch"] = (lambda: run_torch(problem, few, all_keys, 512), rows / len(few))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(repeats + 1):
        for name, (work, factor) in contenders.items():
            taken = timed(work, problem.device) * factor
            if round_number:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def is_canonical(problem: Problem, checked_rows: int) -> bool:
    """Compare rows of ours with NumPy's float64 scores: exact self ranks, top-k scores, no id twice.

    The order of float64 near-ties depends on the order of summation, so a row may hold either id of such a pair.
    """
    rows = np.random.default_rng(0).permutation(len(problem.queries_RH))[:checked_rows]
    queries = np.ascontiguousarray(problem.queries_RH[rows])
    prepared = PreparedKeys(problem.keys_VH, device=problem.device)
    result = score_rows(queries, prepared, row_ids_R=rows, k=problem.k, threads=problem.threads)
    keys_HV = problem.keys_VH.T.astype(np.float64)
    for start in range(0, len(rows), CHECKED_ROWS):
        part = slice(start, start + CHECKED_ROWS)
        dots = queries[part].astype(np.float64) @ keys_HV
        own_R1 = np.take_along_axis(dots, rows[part, None], axis=1)
        best = -np.sort(-np.partition(dots, -problem.k, axis=1)[:, -problem.k :], axis=1)
        ids = result.key_ids_RK[part].astype(np.int64)
        if not (
            np.allclose(best, np.take_along_axis(dots, ids, axis=1), rtol=1e-13, atol=1e-13)
            and (np.diff(np.sort(ids, axis=1), axis=1) > 0).all()
            and (1 + (dots > own_R1).sum(axis=1) == result.self_rank_R[part]).all()
        ):
            return False
    return True


def extra_memory_mb(problem: Problem) -> float:
    """Return the engine's peak resident memory beyond queries, keys and results, in MB (Linux; in a fresh process)."""
    small = np.ones((600, problem.keys_VH.shape[1]), np.float32)
    score_rows(small, PreparedKeys(small), row_ids_R=np.arange(600), k=2, threads=problem.threads)
    ctypes.CDLL(None).malloc_trim(0)  # what the data's making left on the heap would hide what the engine takes
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to what is resident now
    before_kb = _status_kb("VmRSS")
    result = run_ours(problem, PreparedKeys(problem.keys_VH))
    results_kb = sum(getattr(result, name).nbytes for name in RowScores.__dataclass_fields__) / 1024
    return float(_status_kb("VmHWM") - before_kb - results_kb) / 1024


def _status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def fastest_core_type(threads: int) -> str:
    """Return the OPENBLAS_CORETYPE under which faiss is fastest here ("" = its own choice), each tried in a process."""
    code = (
        "import time, numpy, faiss;"
        f"faiss.omp_set_num_threads({threads});"
        "a = numpy.random.default_rng(0).standard_normal((20000, 64), dtype='float32'); b = a[:4000];"
        "seconds = [];\n"
        "for _ in range(4):\n"
        "    t = time.perf_counter(); faiss.knn(b, a, 64, metric=0); seconds.append(time.perf_counter() - t)\n"
        "print(min(seconds))"
    )
    seconds = {}
    for core_type in CORE_TYPES:
        environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
        if core_type:
            environment["OPENBLAS_CORETYPE"] = core_type
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        if done.returncode == 0:  # a kernel for other processors ends in an illegal instruction
            seconds[core_type] = float(done.stdout)
    return min(seconds, key=lambda name: seconds[name])


def run_case(arguments: argparse.Namespace, kind: str, vocabulary: int) -> dict[str, Any]:
    """Measure one data set at one vocabulary size; with `--model`, one head, whose vocabulary is the model's."""
    if arguments.model:
        queries, keys = real_head(arguments.model, kind, arguments.threads)
        vocabulary = len(keys)
        rows = min(vocabulary, arguments.rows or vocabulary)
        queries = queries[:rows]
    else:
        rows = min(vocabulary, arguments.rows or vocabulary)
        queries, keys = make_data(kind, rows, vocabulary, arguments.head_dim)
    problem = Problem(
        queries_RH=queries, keys_VH=keys, k=arguments.k, threads=arguments.threads, device=arguments.device
    )
    name = f"{arguments.model} {kind}" if arguments.model else kind
    case: dict[str, Any] = {"data": name, "vocabulary": vocabulary, "rows": rows, "k": arguments.k}
    if arguments.device == "cpu" and not arguments.model and Path("/proc/self/clear_refs").exists():
        command = [sys.executable, "-m", "benchmarks.scoring", "--core-type", "default", "--memory", "--data", kind]
        for name in ("rows", "head_dim", "k", "threads"):
            value = rows if name == "rows" else getattr(arguments, name)
            command += [f"--{name.replace('_', '-')}", str(value)]
        done = subprocess.run([*command, "--vocabulary", str(vocabulary)], capture_output=True, text=True, check=True)
        case["peak_memory_mb"] = round(float(done.stdout), 1)
    case["canonical"] = is_canonical(problem, arguments.check_rows)
    if not arguments.repeats:
        return case
    seconds = measure(problem, arguments.repeats, not arguments.skip_torch)
    case |= {f"{name.replace('+', '_')}_seconds": round(value, 4) for name, value in seconds.items()}
    case["ns_per_score"] = round(seconds["ours"] / rows / vocabulary * 1e9, 4)
    for name in seconds:
        if name != "ours":
            case[f"ratio_to_{name.replace('+', '_')}"] = round(seconds["ours"] / seconds[name], 3)
    # Of the time that all of a round take, so that a reader sees what the figures were taken beside.
    case["shares"] = {name: round(value / sum(seconds.values()), 3) for name, value in seconds.items()}
    return case


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, run all cases and print them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description="Scoring engine against peers.")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[10000, HEADLINE_VOCABULARY, 128256])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--model", help="a learned model, such as smollm2, instead of synthetic data")
    parser.add_argument("--head", nargs="+", default=["L1H5"], help="its heads")
    parser.add_argument("--rows", type=int, help="score only the first ROWS queries (default: all)")
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--threads", type=int, default=local_cpus())
    parser.add_argument("--repeats", type=int, default=3, help="rounds after the warm-up; 0 only checks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--skip-torch", action="store_true", help="leave out naive torch, by far the slowest on CPU")
    parser.add_argument("--quick", action="store_true", help="under a minute: 8192 rows, V of 10000 and 50257, 1 round")
    parser.add_argument("--core-type", default="auto", help="OPENBLAS_CORETYPE for faiss; auto = its fastest here")
    parser.add_argument("--check-rows", type=int, default=CHECKED_ROWS, help="rows compared with a float64 reference")
    parser.add_argument("--memory", action="store_true", help="print only the extra peak memory of one case, in MB")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rows, arguments.repeats, arguments.vocabulary = 8192, 1, [10000, HEADLINE_VOCABULARY]
        arguments.core_type = "default" if arguments.core_type == "auto" else arguments.core_type
    if arguments.device == "cpu" and arguments.core_type == "auto":
        core_type = fastest_core_type(arguments.threads)
        # OpenBLAS reads the variable when it is loaded, so the measurement itself runs in a new process.
        environment = os.environ | ({"OPENBLAS_CORETYPE": core_type} if core_type else {})
        command = [sys.executable, "-m", "benchmarks.scoring", *(argv if argv is not None else sys.argv[1:])]
        return subprocess.run([*command, "--core-type", core_type or "default"], env=environment).returncode
    if arguments.memory:
        vocabulary = arguments.vocabulary[0]
        queries, keys = make_data(arguments.data[0], arguments.rows or vocabulary, vocabulary, arguments.head_dim)
        problem = Problem(queries_RH=queries, keys_VH=keys, k=arguments.k, threads=arguments.threads, device="cpu")
        print(extra_memory_mb(problem))
        return 0
    machine = describe_machine(arguments.threads) | {"openblas_core_type": arguments.core_type}
    print("# " + ", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    cases = []
    for vocabulary in [0] if arguments.model else arguments.vocabulary:
        for kind in arguments.head if arguments.model else arguments.data:
            cases.append(run_case(arguments, kind, vocabulary))
            print("  ".join(f"{name}={value}" for name, value in cases[-1].items()), flush=True)
    if arguments.json and arguments.repeats:
        headline = [case for case in cases if case["vocabulary"] == HEADLINE_VOCABULARY] or cases
        peer = "ratio_to_faiss" if arguments.device == "cpu" else "ratio_to_torch"
        # The headline is the worse data set, so that it holds for both.
        print(json.dumps(max(headline, key=lambda case: case[peer]) | {"machine": machine, "cases": cases}))
    return 0 if all(case["canonical"] for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
