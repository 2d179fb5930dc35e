"""A plan as text for people, and as JSON for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qkatlas.jobs.loop.terminal import harmless
from qkatlas.jobs.plan.device import GPU_EFFICIENCY
from qkatlas.jobs.plan.plan import Machines, Plan


def plan_text(plan: Plan, machines: Machines) -> RenderableType:
    """A plan for a person."""
    shape, grant, gpu = plan.shape, machines.grant, machines.gpu
    lines = [
        f"{plan.job} of {harmless(shape.name, one_line=True)}: {shape.vocab_size} tokens, "
        f"{shape.n_layers} layers x {shape.n_heads} heads of {shape.d_head}, {shape.d_model} wide ({shape.source})"
    ]
    if not shape.computed:
        lines.append("Planned only, from its sizes: give the checkpoint itself to learn whether it can be computed.")
    largest = max(plan.tables, key=lambda table: table.bytes(shape.vocab_size))
    lines.append(
        f"{len(plan.shards)} shards, {plan.files} files, {_bytes(plan.bytes)} on disk (the largest table: "
        f"{largest.name}), {_flops(plan.flops)} of products"
    )
    seconds = machines.seconds(plan)
    total = sum(seconds.values())
    where = (
        f"{_count(grant.workers, 'GPU')} ({gpu.name}), {_count(grant.cpus, 'CPU thread')} each"
        if gpu
        else f"{_count(grant.workers, 'worker')} of {_count(grant.cpus, 'CPU thread')}"
    )
    closing = [f"about {_time(total)} on {where}, the driver's share included"]
    if gpu:
        bound = machines.bound(plan)
        assert bound is not None
        closing.append(
            f"at least {_time(bound)} by the GPUs' peak in products alone; {GPU_EFFICIENCY:.0%} of the peak is "
            "assumed, not measured"
        )
        if plan.memory.gpu > gpu.memory:
            closing.append(f"does not fit: {_bytes(plan.memory.gpu)} on a GPU, and {gpu.name} has {_bytes(gpu.memory)}")
    else:
        closing.append("cores as fast as those of benchmarks/README.md are assumed, with nothing else on them")
    return Group(
        *map(Text, lines), Text(""), _tables(plan), Text(""), _steps(plan, machines, seconds), Text(""),
        _memory(plan, gpu is not None), Text(""), *map(Text, closing),
    )  # fmt: skip


def plan_json(plan: Plan, machines: Machines) -> dict[str, Any]:
    """A plan for a program: bytes, FLOPs and seconds."""
    seconds = machines.seconds(plan)
    return {
        "job": plan.job,
        "model": plan.shape.name,
        "computed": plan.shape.computed,
        "shards": len(plan.shards),
        "files": plan.files,
        "bytes": round(plan.bytes),
        "flops": plan.flops,
        "tables": {
            table.name: {"files": table.files, "rows": table.rows, "bytes": round(table.bytes(plan.shape.vocab_size))}
            for table in plan.tables
        },
        "memory": {name: round(value) for name, value in vars(plan.memory).items() if machines.gpu or name != "gpu"},
        "workers": machines.grant.workers,
        "threads": machines.grant.cpus,
        "gpu": machines.gpu and machines.gpu.name,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "seconds_total": round(sum(seconds.values()), 3),
        "seconds_at_gpu_peak": machines.bound(plan),
        "gpu_efficiency_assumed": GPU_EFFICIENCY if machines.gpu else None,
    }


def _tables(plan: Plan) -> Table:
    table = _grid("table", "files", "rows", "bytes")
    for planned in plan.tables:
        size = planned.bytes(plan.shape.vocab_size)
        table.add_row(planned.name, str(planned.files), str(planned.rows), _bytes(size))
    return table


def _steps(plan: Plan, machines: Machines, seconds: dict[str, float]) -> Table:
    table = _grid("step", "on", "float32", "float64", "time")
    flops: dict[str, list[float]] = {}
    places: dict[str, str] = {}  # of the last step of that name
    for step in plan.steps:
        single, double = flops.setdefault(step.name, [0.0, 0.0])
        flops[step.name] = [single + step.load.float32, double + step.load.float64]
        device = "GPU" if machines.gpu and step.gpu_sweeps else "CPU"
        places[step.name] = f"each worker's {device}" if step.each_worker else f"{step.place}, {device}"
    table.add_row("start", "driver, CPU", "", "", _time(seconds["start"]))
    for name, (single, double) in flops.items():
        table.add_row(name, places[name], _flops(single), _flops(double), _time(seconds[name]))
    return table


def _memory(plan: Plan, with_gpu: bool) -> Table:
    memory = plan.memory
    table = _grid("memory at most", "bytes")
    table.add_row("a worker's own", _bytes(memory.worker))
    table.add_row("object store, once a node", _bytes(memory.shared))
    table.add_row("the driver's own", _bytes(memory.driver))
    if with_gpu:
        table.add_row("a GPU", _bytes(memory.gpu))
    return table


def _grid(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in columns:
        words = column in ("table", "step", "on", "memory at most")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= step
    return f"{value:.3g} {units[-1]}" if value < 1000 else f"{value:.0f} {units[-1]}"


def _bytes(value: float) -> str:
    return _scaled(value / 1e3, 1e3, ("kB", "MB", "GB", "TB"))


def _flops(value: float) -> str:
    return _scaled(value / 1e9, 1e3, ("GFLOP", "TFLOP", "PFLOP", "EFLOP")) if value >= 5e6 else ""


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.3g} h"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
