"""What do `stability` and `concept_set` cost on top of scoring a layer? Processor time, one thread.

    python scripts/check_stability_cost.py                 # 512 units, 1,000 images, 1,000 words

A simulated layer whose units answer to words, scored with and without `--no-stability` by every similarity of
clip-dissect: the least of `--repeats` rounds, after one that leaves random image sets in the cache.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.options import SIMILARITIES
from scripts.blind_worlds import found, planted, random_world


def measure(
    units: int,
    images: int,
    words: int,
    repeats: int,
    *,
    root: Path,
    similarities: Sequence[str] = SIMILARITIES,
) -> dict[str, tuple[float, float]]:
    """Seconds of processor time without and with stability, per similarity."""
    world, rng = random_world(root, images, words)
    Q, _ = planted(world, rng, units, strength=1.0)
    seconds: dict[str, tuple[float, float]] = {}
    for name in similarities:
        least = []
        for stability in (False, True):
            detector, rounds = ClipDissect(name, stability=stability), []
            for number in range(repeats + 1):
                start = time.process_time()
                found(world, detector, Q, f"{name}-{stability}-{number}", matrix=False)
                rounds.append(time.process_time() - start)
            least.append(min(rounds[1:]))
        seconds[name] = (least[0], least[1])
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--words", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--similarity", default=",".join(SIMILARITIES), help="a comma list")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        size = (options.units, options.images, options.words, options.repeats)
        seconds = measure(*size, root=Path(folder), similarities=options.similarity.split(","))
    print("| similarity | scoring, s | stability on top, s | on top |")
    print("| --- | --- | --- | --- |")
    for name, (without, with_it) in seconds.items():
        more = with_it - without
        print(f"| {name} | {without:.2f} | {more:.2f} | {100 * more / without:.0f} % |")


if __name__ == "__main__":
    main()
