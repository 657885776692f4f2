"""`cmon dynamics`: when has a layer become what it will be?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import DynamicsOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.dynamics import DynamicsResult

app = cmon_app()

_METHOD = "Method"


@cmon_command(
    app,
    "dynamics",
    examples=[
        ("cmon dynamics", "the run in ./cmon-out"),
        ("cmon dynamics standard robust --layer layer4", "two trainings, layer by layer and epoch by epoch"),
    ],
)
def dynamics(console: Console, options: DynamicsOptions) -> None:
    """Compare layers with each other and with themselves at other epochs.

    Debiased CKA of all pairs of layer, epoch and run; Procrustes, SVCCA and PWCCA along time; how many
    dimensions the activations fill. Beside every number stands what permuted images give (of dimensions:
    independent units). From what `dissect` recorded: no network is run. Writes tables/similarity.csv,
    tables/dimension.csv and plots into the (first) run.
    """
    from concept_monitor_cli.stories import dynamics as reading

    result = reading.dynamics(options, console)
    console.result(result)
    if not console.json:
        from rich.text import Text

        console.print(_table(result, options.threshold))
        for sentence in result.words:
            console.print(Text(sentence))
        for plot in result.plots:
            console.print(str(plot))


def _table(result: DynamicsResult, threshold: float) -> Table:
    from rich.text import Text

    table = plain_table(f"similarity to the last epoch (CKA over {counted(result.images, 'images')})")
    several = len({line.run for line in result.convergence}) > 1
    for name in (
        *(("run",) if several else ()),
        "layer",
        f"{threshold:g} from epoch",
        "before",
        "last change",
    ):
        table.add_column(name, justify="left" if name in ("run", "layer") else "right")
    for line in result.convergence:
        change = list(line.speed.values())[-1:]
        table.add_row(
            *((Text(line.run),) if several else ()),
            Text(line.layer),
            str(line.from_epoch),
            "-" if line.before is None else f"{line.before:.2f}",
            f"{change[0]:.3f}" if change else "-",
        )
    return table
