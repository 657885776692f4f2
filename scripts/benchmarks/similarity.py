"""The five similarities against the literal per-unit loops: time, peak memory, labels.

    python -m scripts.benchmarks.similarity                      # N=10,000, C=512, M=20,000: minutes
    python -m scripts.benchmarks.similarity --concepts 5000 --json result.json

Both sides get the same tensors and run in alternation in one process, so that a busy machine slows both; the
ratios are those of the medians. `cpu` is processor time over all threads: it hardly depends on what else
runs, and with `OMP_NUM_THREADS=1` not on waiting threads either.

A literal loop over all units takes up to half an hour, so it runs on `--literal-units` units and on one, and
its time is `one + (few - one) / (few - 1) * (C - 1)`: an extrapolation, marked `*`. Peak memory (Linux) is
that of the process above what it holds before the call, inputs included, each call in a process of its own;
for the literal loop on few units it is a lower bound. "embeddings" gives both sides `I` and `T`: the literal
loop then starts by making `P`.

Labels are compared on the literal units. For rank reorder, large differences of a score come from equal
values of `P`: the literal loop's sort leaves their order open.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.functional import similarity
from tests.functional import twins

NAMES = ["soft_wpmi", "wpmi", "rank_reorder", "cos_cubed", "cos"]
#: What is asked of the tool on 2 CPU cores: times faster, and the share of the literal loop's peak memory.
TARGETS = {"soft_wpmi": (8.0, 1 / 3), "wpmi": (8.0, 1 / 3), "rank_reorder": (3.0, 1 / 3)}


def inputs(n: int, c: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings with CLIP-like cosines and activations that follow one concept each, with noise and ReLU."""
    g = torch.Generator().manual_seed(seed)
    images = torch.nn.functional.normalize(torch.randn(n, d, generator=g) + 0.6, dim=1)
    texts = torch.nn.functional.normalize(torch.randn(m, d, generator=g) + 0.6, dim=1)
    wired = torch.randint(0, m, (c,), generator=g)
    driven = images @ texts[wired].T
    driven = (driven - driven.mean(0)) / driven.std(0)
    return images, texts, (driven + 0.5 * torch.randn(n, c, generator=g)).relu()


def ours(name: str, form: str, images: Tensor, texts: Tensor, P: Tensor | None, Q: Tensor) -> Tensor:
    given = P if form == "matrix" else similarity.ConceptActivations.from_embeddings(images, texts)
    result: Tensor = getattr(similarity, name)(given, Q)
    return result


def literal(
    name: str, form: str, images: Tensor, texts: Tensor, P: Tensor | None, Q: Tensor, units: int
) -> Tensor:
    if form == "embeddings":
        P = images @ texts.T
    function: Callable[..., Tensor] = getattr(twins, f"literal_{name}_fp32")
    return function(P, Q, units=units)


def timed(call: Callable[[], Tensor]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_bytes(name: str, side: str, form: str, sizes: list[int], units: int) -> int:
    """Peak of the process above its inputs while the one call runs, in a process of its own."""
    command = [sys.executable, "-m", "scripts.benchmarks.similarity", "--probe-peak", name, side, form]
    command += [*map(str, sizes), str(units)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.strip().splitlines()[-1])


def _print_peak(name: str, side: str, form: str, n: int, c: int, m: int, d: int, units: int) -> None:
    images, texts, Q = inputs(n, c, m, d)
    P = images @ texts.T if form == "matrix" else None
    torch.softmax(
        torch.rand(64, 64) @ torch.rand(64, 64), 1
    )  # libraries and their workspaces are loaded before
    similarity.soft_wpmi(torch.rand(64, 8), torch.rand(64, 8))
    held = _reset_peak()
    if side == "ours":
        ours(name, form, images, texts, P, Q)
    else:
        literal(name, form, images, texts, P, Q, units)
    print(max(0, _memory("VmHWM") - held))


def _memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _reset_peak() -> int:
    """Forget the highest resident size so far (that of making the inputs); returns the present one."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM
    return _memory("VmRSS")


def compare(name: str, form: str, sizes: list[int], *, rounds: int, units: int) -> dict[str, Any]:
    """One row: time of both sides in alternation, peak memory, agreement of labels."""
    n, c, m, d = sizes
    images, texts, Q = inputs(n, c, m, d)
    P = images @ texts.T if form == "matrix" else None
    few = min(units, c)
    sides: dict[str, Callable[[], Tensor]] = {
        "fast": lambda: ours(name, form, images, texts, P, Q),
        "one": lambda: literal(name, form, images, texts, P, Q, 1),
        "few": lambda: literal(name, form, images, texts, P, Q, few),
    }
    ours(name, form, images, texts, P, Q[:, :2])  # warm up
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, call in sides.items():
            times[side].append(timed(call))
    seconds: dict[str, tuple[float, float]] = {}
    for clock, label in enumerate(("wall", "cpu")):
        fast, one, many = (
            statistics.median(t[clock] for t in times[side]) for side in ("fast", "one", "few")
        )
        per_unit = max(0.0, (many - one) / max(1, few - 1))
        seconds[label] = fast, one + per_unit * (c - 1)

    part = Q[:, :few].contiguous()  # the prior is over these units for both
    expected = literal(name, form, images, texts, P, part, few)
    scores = ours(name, form, images, texts, P, part)
    difference = float((scores - expected).abs().max())
    differ = scores.argmax(1) != expected.argmax(1)
    # Where labels differ, by how much did the literal loop prefer its own? Rounding only, or a fault?
    own = expected.gather(1, expected.argmax(1, keepdim=True)) - expected.gather(
        1, scores.argmax(1, keepdim=True)
    )
    row: dict[str, Any] = {
        "similarity": name,
        "given": form,
        "images": n,
        "units": c,
        "concepts": m,
        "seconds": seconds["wall"][0],
        "literal_seconds": seconds["wall"][1],
        "cpu_seconds": seconds["cpu"][0],
        "literal_cpu_seconds": seconds["cpu"][1],
        "literal_extrapolated_from_units": few if few < c else None,
        "ratio": seconds["wall"][1] / seconds["wall"][0],
        "cpu_ratio": seconds["cpu"][1] / seconds["cpu"][0],
        "peak_bytes": peak_bytes(name, "ours", form, sizes, few),
        "literal_peak_bytes": peak_bytes(name, "literal", form, sizes, few),
        "labels_compared": few,
        "labels_different": int(differ.sum()),
        "largest_preference_lost": float(own.max()),
        "largest_difference": difference,
    }
    row["peak_share"] = row["peak_bytes"] / row["literal_peak_bytes"]
    if name in TARGETS:
        times, share = TARGETS[name]
        row["target_ratio"], row["target_peak_share"] = times, share
        row["met"] = row["ratio"] >= times and row["peak_share"] <= share and row["labels_different"] == 0
    return row


def run(
    *,
    images: int = 10_000,
    units: int = 512,
    concepts: int = 20_000,
    dim: int = 512,
    rounds: int = 3,
    literal_units: int = 24,
    names: list[str] | None = None,
    forms: tuple[str, ...] = ("matrix", "embeddings"),
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All rows and the machine they come from, as JSON-ready values."""
    rows = []
    report(HEADER)
    for name in names or NAMES:
        for form in forms:
            row = compare(name, form, [images, units, concepts, dim], rounds=rounds, units=literal_units)
            report(as_line(row))
            rows.append(row)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    return {"benchmark": "similarity", "machine": machine, "rows": rows}


COLUMNS = ("similarity", 13), ("given", 11), ("seconds", 8), ("literal", 10), ("ratio", 8), ("cpu", 8)
COLUMNS += ("peak MB", 9), ("literal", 9), ("share", 7), ("labels", 9), ("max diff", 10)
HEADER = "".join(f"{name:>{width}}" for name, width in COLUMNS)


def as_line(row: dict[str, Any]) -> str:
    mark = "*" if row["literal_extrapolated_from_units"] else ""
    same = row["labels_compared"] - row["labels_different"]
    cells = [
        row["similarity"],
        row["given"],
        f"{row['seconds']:.2f}",
        f"{row['literal_seconds']:.1f}{mark}",
        f"{row['ratio']:.1f}x",
        f"{row['cpu_ratio']:.1f}x",
        f"{row['peak_bytes'] / 1e6:.0f}",
        f"{row['literal_peak_bytes'] / 1e6:.0f}",
        f"{row['peak_share']:.2f}",
        f"{same}/{row['labels_compared']}",
        f"{row['largest_difference']:.0e}",
    ]
    return "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--probe-peak":
        name, side, form, *numbers = sys.argv[2:]
        n, c, m, d, units = map(int, numbers)
        _print_peak(name, side, form, n, c, m, d, units)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--concepts", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--literal-units", type=int, default=24)
    parser.add_argument("--only", nargs="*", choices=NAMES)
    parser.add_argument("--given", nargs="*", choices=["matrix", "embeddings"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = run(
        images=given.images,
        units=given.units,
        concepts=given.concepts,
        dim=given.dim,
        rounds=given.rounds,
        literal_units=given.literal_units,
        names=given.only,
        forms=tuple(given.given or ("matrix", "embeddings")),
        report=print,
    )
    print("* the literal loop ran on some units only; its time is scaled to all of them")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
