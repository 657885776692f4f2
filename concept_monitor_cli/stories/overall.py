"""What follows from all concept tables of a run together, once the last of them is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.resampling import RESAMPLES
from concept_monitor_cli.monitor.findings import Finding
from concept_monitor_cli.options import ReadingOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.stories.findings import write_findings
from concept_monitor_cli.stories.inputs import WithoutNotices
from concept_monitor_cli.stories.lives import refresh_lives
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.stats import statistics_of

if TYPE_CHECKING:
    import pandas as pd

    from concept_monitor_cli.study import Context


@dataclass
class Conclusion:
    """What is said of a run as a whole.

    Attributes:
        findings: in sentences.
        statistics: what is in `statistics.csv`, not rounded; `None` where it could not be counted.
    """

    findings: list[Finding] = field(default_factory=list)
    statistics: pd.DataFrame | None = None


def conclude_run(
    run: RunFolder, options: ReadingOptions, context: Context | None, *, resample: bool, progress: Progress
) -> Conclusion:
    """Statistics, the lives of the units, and what the run says.

    Args:
        run: with its concept tables.
        options: the machine, the cache and the seed.
        context: the run's images and words; `None` to open them, where they are needed.
        resample: draw the images again to see which changes of label are more than luck.
        progress: told of long work, and where something cannot be said.
    """
    quiet = WithoutNotices(progress)
    opened = OpenRun(run.root, options, quiet, context)
    try:
        refresh_lives(opened, resamples=RESAMPLES if resample else 0, seed=options.seed, progress=quiet)
        statistics = statistics_of(opened)
        run.write_csv("statistics", statistics)
    except InputError as error:
        # The concept tables are whole; what is made of them may need words or recordings that are gone.
        progress.warning(f"nothing is said of the run as a whole: {error.what}")
        return Conclusion()
    return Conclusion(write_findings(opened, statistics), statistics)
