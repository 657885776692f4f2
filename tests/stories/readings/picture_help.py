"""What the tests of `cmon picture` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from concept_monitor_cli.options import EpochFilter, PictureOptions
from concept_monitor_cli.progress import Silent
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.stories.picture import PictureResult

STEPS = 20


def options(world_of: tuple[Path, Path], **more: object) -> PictureOptions:
    run, cache = world_of
    model = RunFolder.open(run).info()["options"]["model"]
    given: dict[str, object] = {
        "out": run,
        "cache_dir": cache,
        "device": "cpu",
        "model": model,
        "steps": STEPS,
        "units": (1, 4, 5),
        "at_once": 4,
        "epochs": EpochFilter.parse("0,5"),
        "plot_formats": (),
    }
    return PictureOptions(**{**given, **more})  # type: ignore[arg-type]


def table(result: PictureResult) -> pd.DataFrame:
    return TABLES["pictures"].read_csv(result.tables[0])


class Counting(Silent):
    """Counts the steps that are made."""

    def __init__(self, stop: int | None = None) -> None:
        self.steps, self._stop = 0, stop

    @contextmanager
    def counting(self) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            self.steps += count
            if self._stop is not None and self.steps >= self._stop:
                raise KeyboardInterrupt

        yield advance

    def task(self, description: str, total: int | None, unit: str = "images"):  # type: ignore[no-untyped-def]
        return self.counting() if description == "making pictures" else super().task(description, total)


def contents(run: Path) -> dict[str, bytes]:
    files = [*sorted((run / "pictures").rglob("*.png")), run / "tables" / "pictures.csv"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}
