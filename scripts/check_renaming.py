"""Do the names of files decide anything? A probing set is dissected under other names; tables are compared.

    python scripts/check_renaming.py PROBE -- CHECKPOINTS --layer layer3 --detector clip-dissect

PROBE is a folder of images (folders in it stay: they may name classes) or a Broden directory (the files are
renamed in its `index.csv` too, and its rows are shuffled). What follows `--` are arguments of `cmon dissect`
without `--probe`, `--out` and `--cache-dir`. Each set is dissected with a cache of its own. Says which tables
differ; the exit code is 1 where one does.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np

TABLES = {".csv", ".parquet"}


def rename_all(probe: Path, target: Path, *, seed: int = 0) -> dict[str, str]:
    """Copy a probing set with other names of all its files.

    Args:
        probe: a folder of images, or a Broden directory.
        target: where to; must not exist.
        seed: of the names.

    Returns:
        From the old path of every renamed file, inside its folder, to the new one.
    """
    is_broden = (probe / "index.csv").is_file()
    images = probe / "images" if is_broden else probe
    files = sorted(path.relative_to(images) for path in images.rglob("*") if path.is_file())
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(len(files)).tolist()
    names = {
        str(path): str(path.with_name(f"{number:06d}{path.suffix}"))
        for number, path in zip(numbers, files, strict=True)
    }
    renamed = target / "images" if is_broden else target
    for old, new in names.items():
        (renamed / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images / old, renamed / new)
    if is_broden:
        for path in probe.glob("*.csv"):
            if path.name != "index.csv":
                shutil.copyfile(path, target / path.name)
        _rewrite(probe / "index.csv", target / "index.csv", names, rng)
    return names


def _rewrite(index: Path, target: Path, names: dict[str, str], rng: np.random.Generator) -> None:
    """Broden's index with the new names, in another order."""
    with index.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rng.permutation(len(rows)).tolist():
            cells = [";".join(names.get(part, part) for part in cell.split(";")) for cell in rows[row]]
            writer.writerow(cells)


def tables(run: Path) -> dict[str, str]:
    """The digest of every table of a run, by its path."""
    folder = run / "tables"
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in TABLES
    }


def different(first: Path, second: Path) -> list[str]:
    """The tables that two runs do not share byte by byte."""
    one, other = tables(first), tables(second)
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def main(arguments: list[str] | None = None) -> int:
    """Dissect both and say which tables differ."""
    from concept_monitor_cli.cli.app import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("probe", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the new names")
    parser.add_argument("--keep", type=Path, help="leave both runs in this folder")
    parser.add_argument("dissect", nargs="+", help="arguments of cmon dissect, after --")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.keep or Path(temporary)
        rename_all(options.probe, work / "renamed", seed=options.seed)
        for name, probe in (("given", options.probe), ("other", work / "renamed")):
            more = ["--probe", probe, "--out", work / name, "--cache-dir", work / f"cache-{name}", "-q"]
            if code := run(["dissect", *options.dissect, *map(str, more)]):
                return code
        names, wrong = tables(work / "given"), different(work / "given", work / "other")
    print(f"{len(names) - len(wrong)} of {len(names)} tables are byte-identical under other names")
    for name in wrong:
        print(f"- different: {name}")
    return int(bool(wrong) or not names)


if __name__ == "__main__":
    raise SystemExit(main())
