"""The five similarities against the literal per-unit loops: time, peak memory, labels.

Both sides get the same tensors and run in alternation in one process. Where a literal loop over all units
takes up to half an hour, it runs on some units and on one, and its time is
`one + (few - one) / (few - 1) * (C - 1)`: an extrapolation.

The loops that the tool compiles are compiled before the clock starts: about a second once in a process, given
as `seconds_of_the_first_call`.

Peak memory is that above the inputs, each size in a process of its own; the literal loop's on few units is a
lower bound. Given are the matrix `P` (as the literal loop needs it) and the embeddings that it is the product
of (as the tool has them: then the literal loop starts by making `P`).

A run scores many layers and epochs against one probing set. What is the same for all of them, the normaliser
of the softmax, is kept; "a further layer" is the time without it. The literal loop makes its softmax anew.

Labels are compared on the literal units. For rank reorder, large differences of a score come from equal
values of `P`: the literal loop's sort leaves their order open.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.functional import similarity
from concept_monitor_cli.functional.calibration import PERMUTATIONS
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity.reorder import TOP_FRACTION
from concept_monitor_cli.functional.topk import top_images
from scripts.benchmarks.measure import ROOT, Report, Row, alternate, peak_bytes, run, timed
from tests.functional import twins

#: Times faster and the share of the literal loop's peak that are asked for, at 20,000 concepts.
ASKED = {"soft_wpmi": 8.0, "wpmi": 8.0, "rank_reorder": 3.0, "cos_cubed": None, "cos": None}
PEAK_SHARE = 1 / 3
#: Two labels of a unit whose scores differ by less than this are the same to float32: the scores are sums of
#: a hundred logarithms, in the hundreds.
ROUNDING = 1e-4
#: Whose softmax over all concepts is the same for every layer of a run.
WITH_SOFTMAX = ("soft_wpmi", "wpmi")
#: Whose loops over all units are compiled, and over a few are not.
COMPILED = (*WITH_SOFTMAX, "rank_reorder")
#: On how many units the literal loop runs at most: about ten seconds' worth.
LITERAL_UNITS = {"soft_wpmi": 512, "wpmi": 512, "rank_reorder": 6, "cos_cubed": 96, "cos": 96}

Sizes = tuple[int, int, int, int]


def inputs(n: int, c: int, m: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings with CLIP-like cosines and activations that follow one concept each, with noise and ReLU."""
    g = torch.Generator().manual_seed(seed)
    images = torch.nn.functional.normalize(torch.randn(n, d, generator=g) + 0.6, dim=1)
    texts = torch.nn.functional.normalize(torch.randn(m, d, generator=g) + 0.6, dim=1)
    wired = torch.randint(0, m, (c,), generator=g)
    driven = images @ texts[wired].T
    driven = (driven - driven.mean(0)) / driven.std(0)
    return images, texts, (driven + 0.5 * torch.randn(n, c, generator=g)).relu()


class Case:
    """The inputs of one size, and both sides of the comparison."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.images, self.texts, self.Q = (each.to(device) for each in inputs(*sizes))
        self.P = self.images @ self.texts.T
        self.known = similarity.ConceptActivations.from_matrix(self.P)

    def ours(self, name: str, Q: Tensor | None = None) -> Tensor:
        """Given `P`."""
        result: Tensor = getattr(similarity, name)(self.P, self.Q if Q is None else Q)
        return result

    def ours_again(self, name: str) -> Tensor:
        """Given `P`, for a further layer of a run: what is the same for all layers is known."""
        result: Tensor = getattr(similarity, name)(self.known, self.Q)
        return result

    def ours_from_embeddings(self, name: str) -> Tensor:
        """Given what `P` is the product of."""
        given = similarity.ConceptActivations.from_embeddings(self.images, self.texts)
        result: Tensor = getattr(similarity, name)(given, self.Q)
        return result

    def literal(self, name: str, units: int, Q: Tensor | None = None) -> Tensor:
        """The loop over units, on the first few."""
        loop: Callable[..., Tensor] = getattr(twins, f"literal_{name}_fp32")
        return loop(self.P, self.Q if Q is None else Q, units=units)


def compare(case: Case, name: str, peaks: dict[str, int] | None, rounds: int, units: int) -> list[Row]:
    """The rows of one similarity at one size."""
    n, c, m, _ = case.sizes
    few = min(units, c)
    # What is loaded and compiled at the first call, and that takes seconds, is left out.
    first = timed(lambda: case.ours(name, None if name in COMPILED else case.Q[:, :2]), case.device)
    sides: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: case.ours(name),
        "few": lambda: case.literal(name, few),
    }
    if few < c:
        sides["one"] = lambda: case.literal(name, 1)
    if name in WITH_SOFTMAX:
        case.ours_again(name)
        sides["again"] = lambda: case.ours_again(name)
        sides["embeddings"] = lambda: case.ours_from_embeddings(name)
    seconds = alternate(sides, rounds, case.device)
    product = timed(lambda: case.images @ case.texts.T, case.device)
    reading = min(timed(lambda: case.P.amax(1), case.device).wall for _ in range(3))

    def whole(clock: str) -> float:
        many = getattr(seconds["few"], clock)
        one = getattr(seconds.get("one", seconds["few"]), clock)
        return float(one + max(0.0, many - one) / max(1, few - 1) * (c - 1))

    part = case.Q[:, :few].contiguous()  # the prior is over these units for both
    expected, scores = case.literal(name, few, part), case.ours(name, part)
    own, found = expected.argmax(1, keepdim=True), scores.argmax(1, keepdim=True)
    # By how much the literal loop prefers its own label to ours: at a tie, not at all.
    lost = (expected.gather(1, own) - expected.gather(1, found)).view(-1)
    details: dict[str, Any] = {
        "images": n,
        "units": c,
        "concepts": m,
        "seconds": seconds["ours"].wall,
        "seconds_of_the_first_call": first.wall,
        "cpu_seconds": seconds["ours"].cpu,
        "literal_seconds": whole("wall"),
        "literal_cpu_seconds": whole("cpu"),
        "literal_on_units": few,
        "seconds_to_read_P_once": reading,
        "labels_compared": few,
        "labels_different": int((lost > ROUNDING).sum()),
        "largest_preference_lost": float(lost.max()),
        "largest_difference": float((scores - expected).abs().max()),
    }
    asked = ASKED[name] if m >= 20_000 else None
    same = f"{few - details['labels_different']} of {few} labels the same"
    literal, spent = details["literal_seconds"], details["seconds"]
    more = ""
    if name in WITH_SOFTMAX:
        details["seconds_of_a_further_layer"] = seconds["again"].wall
        details["seconds_from_embeddings"] = seconds["embeddings"].wall
        details["literal_seconds_from_embeddings"] = from_embeddings = literal + product.wall
        more = (
            f"; a further layer {literal / seconds['again'].wall:.1f}x"
            f"; from embeddings {from_embeddings / seconds['embeddings'].wall:.1f}x"
        )
    rows = [
        Row(
            "similarity",
            f"{name}, {m:,} concepts: time",
            literal / spent,
            "x faster",
            asked,
            limit=literal / reading,
            limit_is="P read once from memory",
            details=details,
            remark=f"{spent:.2f} s instead of {literal:.1f}; {same}{more}",
        )
    ]
    if peaks is not None:
        scores_bytes = 4 * c * m
        rows.append(
            Row(
                "similarity",
                f"{name}, {m:,} concepts: peak memory",
                peaks["ours"] / max(1, peaks["literal"]),
                "of the literal loop's",
                PEAK_SHARE if asked else None,
                at_least=False,
                limit=scores_bytes / max(1, peaks["literal"]),
                limit_is="the scores themselves",
                details=peaks,
                remark=f"{peaks['ours'] / 1e6:.0f} MB instead of {peaks['literal'] / 1e6:.0f}",
            )
        )
    return rows


def chance(case: Case) -> Row:
    """Rank reorder's null by random sets of images that units share, beside scoring permuted layers."""
    n, c, m, _ = case.sizes
    _, values = top_images(case.Q, max(1, int(n * TOP_FRACTION)))
    sets = similarity.RandomSets.draw(ImageGroups.single(n), len(values), c, PERMUTATIONS)
    one = timed(lambda: case.ours("rank_reorder"), case.device)
    spent = timed(lambda: similarity.rank_reorder_by_chance(case.known, values, sets), case.device)
    return Row(
        "similarity",
        f"rank_reorder, null of {PERMUTATIONS} draws, {m:,} concepts: processor time",
        PERMUTATIONS * one.cpu / spent.cpu,
        "x less",
        details={"units": c, "cpu_seconds": spent.cpu, "cpu_seconds_of_a_scoring": one.cpu},
        remark=f"{spent.cpu:.1f} s instead of {PERMUTATIONS} scorings of {one.cpu:.1f}",
    )


def _peaks(sizes: Sizes, device: str, names: list[str]) -> dict[str, dict[str, int]]:
    """Of both sides of every similarity, in a process of its own."""
    arguments = ["scripts.benchmarks.similarity", device, *map(str, sizes), *names]
    found: dict[str, dict[str, int]] = json.loads(run(arguments, ROOT).output)
    return found


def _print_peaks(device: str, numbers: list[str], names: list[str]) -> None:
    n, c, m, d = map(int, numbers)
    where = torch.device(device)
    small = Case((64, 8, 64, 8), where)
    case = Case((n, c, m, d), where)
    peaks = {}
    for name in names:
        # Libraries, their workspaces and compiled loops are loaded before.
        (case if name in COMPILED else small).ours(name)
        small.literal(name, 2)
        few = min(c, LITERAL_UNITS[name])
        peaks[name] = {
            "ours": peak_bytes(lambda name=name: case.ours(name), where),  # type: ignore[misc]
            "literal": peak_bytes(lambda name=name, few=few: case.literal(name, few), where),  # type: ignore[misc]
        }
    print(json.dumps(peaks))


def bench(report: Report, device: torch.device, *, quick: bool) -> None:
    """All similarities at two sizes."""
    sizes: list[Sizes] = [(10_000, 512, 5_000, 512), (10_000, 512, 20_000, 512)]
    if quick:
        sizes = [(2000, 24, 300, 32)]
    memory = device.type == "cuda" or sys.platform == "linux"
    for size in sizes:
        peaks = _peaks(size, str(device), list(ASKED)) if memory else {}
        case = Case(size, device)
        for name in ASKED:
            rounds = 9 if name in WITH_SOFTMAX else 1  # the others take half a minute, and are steady
            for row in compare(case, name, peaks.get(name), 1 if quick else rounds, LITERAL_UNITS[name]):
                report(row)
        report(chance(case))


if __name__ == "__main__":
    _print_peaks(sys.argv[1], sys.argv[2:6], sys.argv[6:])
