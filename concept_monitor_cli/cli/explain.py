"""`cmon explain`: what is where in an image, which units see it, and what it says for which class?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.app import cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.tables import plain_table
from concept_monitor_cli.options import ExplainOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from concept_monitor_cli.stories.explain import ExplainResult

app = cmon_app()


@cmon_command(
    app,
    "explain",
    examples=[
        ("cmon explain dog.jpg", "any photo, at all epochs of the run in ./cmon-out"),
        ("cmon explain dog.jpg cat.jpg --target beagle --layer layer4", "one class, one layer"),
        ("cmon explain dog.jpg --path 0", "quickly: one gradient, and parts may not add up"),
        ("cmon explain dog.jpg --by attribution --on attribution", "what counts for the class"),
        ("cmon explain dog.jpg --grid", "a picture of what the layer says at each place"),
        ("cmon explain --count 20 --dry-run", "what it would cost"),
    ],
)
def explain(console: Console, options: ExplainOptions) -> None:
    """Take the answer to an image apart: units, places, and groups of units.

    For each image a page that works without network: point at a place and see which units
    are active there, with their concept, picture and best photo, and what the place says for
    which class; epochs by a slider. Parts add up, and beside each stands what luck and
    untrained networks give. Writes explanations/, tables/explanations.csv and
    explanation-places.csv into the run.
    """
    from concept_monitor_cli.stories import explain as explaining

    result = explaining.explain(options, console)
    console.result(result)
    if console.json:
        return
    if options.dry_run:
        console.print(
            f"{counted(result.wanted, 'explanations')} of {result.layer} (images at epochs, and in untrained "
            f"networks), {result.found:,} of them in the cache; the others cost at most {result.passes:,} "
            "forward passes"
            + (
                f"; at most {counted(result.pictures, 'pictures')}: {result.picture_passes:,} more"
                if result.pictures
                else ""
            )
        )
        return
    console.print(_table(result))
    for page in [*result.pages, *result.plots]:
        console.print(str(page))


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(result: ExplainResult) -> Table:
    """A line for each image and epoch: the target, what its parts sum to, and the strongest of them."""
    from rich.text import Text

    table = plain_table(f"{result.layer}: what speaks for the target (share of all units, by luck)")
    for number, name in enumerate(("image", "epoch", "target", "logit", "sum", "off by", "strongest unit")):
        table.add_column(name, justify="left" if number in (0, 2, 6) else "right")
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in result.explanations:
        groups.setdefault((row["image"], row["epoch"]), []).append(row)
    for (image, epoch), rows in sorted(
        groups.items(), key=lambda item: list(result.targets).index(item[0][0])
    ):
        target = result.targets[image]
        own = [row for row in rows if row["target"] == target]
        total = next(row for row in own if row["part"] == "total")
        best = max((row for row in own if row["part"] == "unit"), key=lambda row: abs(row["attribution"]))
        error = total["completeness_error"]
        table.add_row(
            Text(image),
            str(epoch),
            Text(target),
            _text(total["logit"]),
            _text(total["attribution"]),
            "-" if error is None else f"{error:.1%}",
            Text(
                f"{best['unit']} {best['concept'] or 'no concept'} {best['attribution']:+.2f} "
                f"({best['share']:.0%}, {best['share_floor']:.0%})"
            ),
        )
    return table
