"""Is every network recognised from its weights alone?

    python scripts/check_recognition.py --timm 150 --seed 0

Takes every torchvision classifier, every bundled CIFAR network and a seeded sample of timm's models, gives
each another number of classes and a `module.` prefix, as a fine-tuned network saved from
DistributedDataParallel has, and asks for the architecture. Nothing but names and shapes is used: networks
are built on the meta device.

A network counts as recognised where the answer is itself, and as `one of several` where the answer has the
same names and shapes and it is listed among the alternatives: weights alone cannot tell these apart.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass

import torch

from concept_monitor_cli.checkpoints.prefixes import strip_prefixes
from concept_monitor_cli.checkpoints.recognition import shipped_index
from concept_monitor_cli.errors import CmonError
from concept_monitor_cli.models.build import constructor, list_architectures, resolve_model


@dataclass(frozen=True)
class Answer:
    """What came out for one network.

    Attributes:
        label: the network.
        answer: the architecture that was named.
        verdict: "recognised", "one of several", "wrong" or "not recognised".
        alternatives: how many others fit as well.
        look_up: seconds for the look-up in the table.
        whole: seconds with building the answer on the meta device and comparing it.
    """

    label: str
    answer: str
    verdict: str
    alternatives: int
    look_up: float
    whole: float


def ask(library: str, name: str, num_classes: int) -> Answer:
    """Build a network with so many classes, wrap it, and have it recognised."""
    label = f"{library}/{name}"
    maker = constructor(library, name)
    assert maker is not None
    arguments = {"num_classes": num_classes} if "num_classes" in maker.arguments else {}
    shapes = maker.shapes(**arguments)
    wrapped = {f"module.{key}": torch.empty(shape, device="meta") for key, shape in shapes.items()}

    start = time.perf_counter()
    state_dict = {new: wrapped[old] for old, new in strip_prefixes(wrapped).names.items()}
    try:
        shipped_index().recognise({key: tuple(value.shape) for key, value in state_dict.items()})
        look_up = time.perf_counter() - start
        source = resolve_model(None, state_dict)
    except CmonError as error:
        return Answer(label, error.what, "not recognised", 0, 0.0, time.perf_counter() - start)
    whole = time.perf_counter() - start
    verdict = "wrong"
    if source.label == label:
        verdict = "recognised"
    elif label in source.alternatives:
        verdict = "one of several"
    if arguments and source.num_classes not in (num_classes, None):
        verdict = "wrong"
    return Answer(label, source.label, verdict, len(source.alternatives), look_up, whole)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--timm", type=int, default=150, metavar="N", help="how many of timm's models (0: none)"
    )
    parser.add_argument("--all", action="store_true", help="all of timm's models")
    parser.add_argument("--classes", type=int, default=17)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    shipped_index()  # read once, before the clock runs

    every = list_architectures("timm")
    chosen = every if options.all else random.Random(options.seed).sample(every, options.timm)
    total: Counter[tuple[str, str]] = Counter()
    slowest: list[Answer] = []
    print(f"{'network':52} {'answer':52} {'verdict':15} others  seconds")
    for library, names in (
        ("torchvision", list_architectures("torchvision")),
        ("cmon", list_architectures("cmon")),
        ("timm", sorted(chosen)),
    ):
        for name in names:
            answer = ask(library, name, options.classes)
            total[library, answer.verdict] += 1
            slowest.append(answer)
            print(
                f"{answer.label:52} {answer.answer[:52]:52} {answer.verdict:15} {answer.alternatives:6}  "
                f"{answer.whole:.2f}",
                flush=True,
            )
    print()
    for library in ("torchvision", "cmon", "timm"):
        counts = {verdict: count for (where, verdict), count in total.items() if where == library}
        parts = ", ".join(
            f"{count} {verdict}" for verdict, count in sorted(counts.items(), key=lambda i: -i[1])
        )
        print(f"{library}: {sum(counts.values())} networks: {parts or 'none asked'}")
    worst = max(slowest, key=lambda answer: answer.whole)
    print(f"look-up at most {max(answer.look_up for answer in slowest):.3f} s")
    print(f"with building and comparing at most {worst.whole:.2f} s ({worst.label})")
    if any(verdict in ("wrong", "not recognised") for _, verdict in total):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
