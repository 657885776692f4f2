"""Do the runs with more interpretable units generalise better? A point for each run, at its last epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.diversity import LEAST_RUNS, rank_test
from concept_monitor_cli.monitor.statistics import ALL, category_statistics
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.opened import OpenRun

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("run", "train", "test")


def diversity(
    runs: Sequence[OpenRun], names: Sequence[str], accuracies: Path | None, progress: Progress
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of `diversity.csv` and `diversity-tests.csv`.

    Args:
        runs: two or more.
        names: of the runs in tables and pictures.
        accuracies: a file with `run, train, test`; None: no gap is known.
        progress: told what is missing, and that few runs say little.

    Raises:
        InputError: a file without these columns, of other runs, or with numbers that are no accuracies.
    """
    import pandas as pd

    known = {} if accuracies is None else read_accuracies(accuracies)
    strange = sorted(set(known) - {key for run in runs for key in _keys(run)})
    if strange:
        raise InputError(
            f"no run is called {strange[0]}",
            where=accuracies,
            hint="write a run as on the command line, or its folder's name",
        )
    shared = _shared(runs)
    if not shared:
        progress.notice("the runs have no layer and detector in common: no diversity")
    rows: list[dict[str, Any]] = []
    for opened, name in zip(runs, names, strict=True):
        train, test = _accuracies(opened, known)
        if known and math.isnan(train - test):
            progress.notice(f"{name}: its gap is not known (train {train:.3f}, test {test:.3f}), left out")
        for layer, detector in shared:
            rows.append(
                {
                    "run": name,
                    "train": train,
                    "test": test,
                    "gap": train - test,
                    **_share(opened, layer, detector),
                }
            )
    table = TABLES["diversity"].frame(pd.DataFrame(rows, columns=list(TABLES["diversity"].columns)))
    tests = _tests(table)
    if len(tests) and int(tests["runs"].max()) < LEAST_RUNS:
        progress.notice(
            f"{int(tests['runs'].max())} runs with a known gap: a correlation over fewer than {LEAST_RUNS} "
            "says nothing, and is not tested"
        )
    return table, tests


def read_accuracies(file: Path) -> dict[str, tuple[float, float]]:
    """Accuracy on training and test images of each run; NaN where a cell is empty. Per cent become shares.

    Raises:
        InputError: it cannot be read, lacks a column, or has a number that is no accuracy.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the accuracies cannot be read: {error}", where=file) from error
    if not rows or not {"run", "train"} <= set(rows[0]):
        raise InputError("it has no rows with the columns run, train, test", where=file)
    found = {}
    for number, row in enumerate(rows, 2):
        try:
            values = [float(row.get(column) or "nan") for column in _COLUMNS[1:]]
        except ValueError as error:
            raise InputError(f"line {number}: {error}", where=file) from error
        if not row["run"] or any(not math.isnan(value) and not 0 <= value <= 100 for value in values):
            raise InputError(f"line {number} is no run with accuracies of 0 to 1, or per cent", where=file)
        found[row["run"].strip().rstrip("/")] = (values[0], values[1])
    largest = max((value for pair in found.values() for value in pair if not math.isnan(value)), default=0)
    scale = 100 if largest > 1 else 1
    return {run: (train / scale, test / scale) for run, (train, test) in found.items()}


def _keys(opened: OpenRun) -> tuple[str, str, str]:
    root = opened.run.root
    return str(root), root.name, str(root.resolve())


def _accuracies(opened: OpenRun, known: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """On training and test images; the latter as its last checkpoint states it where the file does not."""
    train, test = next((known[key] for key in _keys(opened) if key in known), (math.nan, math.nan))
    if math.isnan(test):
        records = sorted(opened.run.checkpoints(), key=lambda record: record.epoch)
        stated = records[-1].accuracy if records else None
        test = math.nan if stated is None else stated
    return train, test


def _shared(runs: Sequence[OpenRun]) -> list[tuple[str, str]]:
    """Layers and detectors that all runs have."""
    places = [[(history.layer, history.detector) for history in opened.histories] for opened in runs]
    return [place for place in places[0] if all(place in others for others in places[1:])]


def _share(opened: OpenRun, layer: str, detector: str) -> dict[str, Any]:
    """Interpretable units among the live ones at the last epoch, and of the layer with random weights."""
    history = next(each for each in opened.histories if (each.layer, each.detector) == (layer, detector))
    rows = opened.rows(history)
    last = rows[rows["epoch"] == rows["epoch"].max()]
    units, interpretable = _counts(last)
    random = opened.untrained(history)
    random_units, random_interpretable = (0, 0) if random is None else _counts(random)
    return {
        "layer": layer,
        "detector": detector,
        "epoch": int(history.epochs[-1]),
        "units": units,
        "interpretable": interpretable,
        "share": interpretable / units if units else math.nan,
        "share_random": random_interpretable / random_units if random_units else math.nan,
    }


def _counts(rows: pd.DataFrame) -> tuple[int, int]:
    whole = category_statistics(rows)
    whole = whole[whole["category"] == ALL]
    return int(whole["units"].sum() - whole["dead"].sum()), int(whole["interpretable"].sum())


def _tests(table: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    rows = []
    known = table[table["gap"].notna() & table["share"].notna()]
    for (layer, detector), own in known.groupby(["layer", "detector"], sort=False):
        if len(own) < 2:
            continue
        share, gap, test = (
            torch.tensor(own[name].to_numpy(dtype=float)) for name in ("share", "gap", "test")
        )
        found = rank_test(share, gap, test)
        rows.append(
            {
                "layer": layer,
                "detector": detector,
                "runs": len(own),
                "correlation": found.correlation,
                "p_value": found.p,
                "partial": found.partial,
            }
        )
    schema = TABLES["diversity-tests"]
    return schema.frame(pd.DataFrame(rows, columns=list(schema.columns)))
