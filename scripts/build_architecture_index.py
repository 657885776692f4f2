"""Make the table by which checkpoints are recognised: concept_monitor_cli/checkpoints/architectures.json.gz.

    python scripts/build_architecture_index.py

Builds every classifier of the installed torchvision and timm, and the bundled CIFAR networks, a few times
each on the meta device (no memory, no download) and keeps hashes of their parameters' names and shapes.
Takes some ten minutes on one core. Run it again after an update of timm or torchvision; the same versions
give the same bytes.
"""

from __future__ import annotations

import argparse
import fnmatch
import logging
import time
from importlib.metadata import version
from pathlib import Path

import torch

from concept_monitor_cli.checkpoints import architectures, recognition
from concept_monitor_cli.models.build import LIBRARIES, constructor, list_architectures

TARGET = Path(architectures.__file__).with_name("architectures.json.gz")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--only", default="*", help="shell pattern over library/name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)

    entries: list[architectures.Architecture] = []
    failed: list[str] = []
    start = time.time()
    for library in LIBRARIES:
        names = [
            name for name in list_architectures(library) if fnmatch.fnmatch(f"{library}/{name}", options.only)
        ]
        for count, name in enumerate(names, 1):
            maker = constructor(library, name)
            assert maker is not None
            try:
                entries += maker.describe()
            except Exception as error:
                failed.append(
                    f"{library}/{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                )
                print(f"left out: {failed[-1]}", flush=True)
            if count % 50 == 0 or count == len(names):
                print(f"{library}: {count} of {len(names)}, {time.time() - start:.0f} s", flush=True)
    made_with = {name: version(name) for name in ("torch", "torchvision", "timm")}
    index = recognition.ArchitectureIndex(entries, made_with)
    data = recognition.dump_index(index)
    options.out.write_bytes(data)
    print(f"{len(entries)} entries, {len(data)} bytes in {options.out}; {len(failed)} left out")


if __name__ == "__main__":
    main()
