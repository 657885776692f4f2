"""A finished run on the terminal: per layer, an epoch a line."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.cli.tables import plain_table, with_luck
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from concept_monitor_cli.cli.console import Console
    from concept_monitor_cli.monitor.findings import Finding
    from concept_monitor_cli.monitor.summary import LayerSummary
    from concept_monitor_cli.run import RunFolder
    from concept_monitor_cli.stories.run_all import RunResult

# More lines than this say less: the epochs in between are in the tables.
_MOST_LINES = 12
# Units named for their pairs of words.
_PAIRS = 3


def finding_lines(findings: Sequence[Finding], width: int = 80) -> list[str]:
    """What a run says, a sentence each with the command that shows the evidence; broken into lines.

    What is to be beware of has a `!` in front.

    Args:
        findings: in their order.
        width: of a line.
    """
    lines = []
    for each in findings:
        mark = "! " if each.is_caution else "* "
        # A command stays in one piece, to be copied.
        command = f" [{each.command}]".replace(" ", "\xa0").replace("\xa0", " ", 1) if each.command else ""
        wrapped = textwrap.wrap(
            f"{mark}{each.sentence}.{command}",
            width,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += [line.replace("\xa0", " ") for line in wrapped]
    return lines


def print_run(console: Console, result: RunResult) -> None:
    """What a `run` found: what it says, its tables, and where the page is.

    Args:
        console: prints.
        result: of the run.
    """
    from concept_monitor_cli.run import RunFolder

    if console.json:
        return
    console.print(*finding_lines(result.findings))
    if result.done:
        folder = RunFolder.open(result.out)
        console.print(*run_tables(summaries_of(folder, result.layers)), *caption_lines(folder))
    if result.page is not None:
        console.print(f"{len(result.plots)} plots and the tables are in {result.out}. The page:")
        console.print(str(result.page))


def caption_lines(run: RunFolder) -> list[str]:
    """What stands below the table of a run whose images are renderings because no others were named."""
    from concept_monitor_cli.monitor.findings import caption

    said = caption(run.info())
    return [said] if said else []


def summaries_of(run: RunFolder, layers: Sequence[str] = ()) -> list[LayerSummary]:
    """The summaries of a finished run.

    Args:
        run: the run.
        layers: only these; none means all.
    """
    from concept_monitor_cli.monitor.findings.tables import fdr_of
    from concept_monitor_cli.monitor.history import layers_and_detectors
    from concept_monitor_cli.monitor.summary import summarise

    records = [record for _, record in run.table_records()]
    tables = run.concepts(
        layers=layers,
        columns=["concept", "category", "score", "p_value", "interpretable", "state", "effect"],
        best=True,
    )
    wanted = {"changes": ("epoch", "layer", "detector"), "units": ("layer", "detector", "confident_changes")}
    read = {
        name: table
        for name, columns in wanted.items()
        if (table := run.table(name, columns=columns)) is not None
    }
    tested: set[tuple[str, str]] = set()
    if len(read) == 2:
        known = read["units"][read["units"]["confident_changes"].notna()]
        tested = set(zip(known["layer"], known["detector"], strict=True))
    return summarise(
        tables,
        records,
        changes=read.get("changes"),
        tested=tested,
        fdr=fdr_of(run.info()),
        untrained={place: run.untrained(*place) for place in layers_and_detectors(tables)},
    )


def run_tables(summaries: Sequence[LayerSummary]) -> list[Any]:
    """A rich table per layer and detector, 80 columns wide or less."""
    return [
        _layer_table(list(group))
        for _, group in groupby(summaries, key=lambda summary: (summary.layer, summary.detector))
    ]


def agreement_lines(rows: pd.DataFrame) -> list[str]:
    """How far the detectors agree, a line per layer.

    Args:
        rows: of `agreement.csv`, one epoch of each layer.
    """
    lines = []
    for layer, pairs in rows.groupby("layer", sort=True):
        said = []
        for row in pairs.to_dict("records"):
            one = f"{row['detector_a']} and {row['detector_b']} {row['same']:.0%} of {row['units']}"
            parts = [
                part
                for part in (
                    _beside_luck("", None, row.get("same_chance"), ".0%"),
                    _beside_luck("near ", row.get("near"), row.get("near_chance"), ".0%"),
                    _beside_luck("cosine ", row["cosine"], row.get("cosine_chance"), ".2f"),
                )
                if part
            ]
            said.append(one + (f" ({'; '.join(parts)})" if parts else ""))
        epoch = pairs["epoch"].iloc[0]
        lines.append(f"{layer}, epoch {epoch}, units with the same concept: {'; '.join(said)}")
    return lines


def _beside_luck(name: str, value: float | None, chance: float | None, form: str) -> str:
    """A number and what chance gives, what is known of both."""
    given = [
        f"{what}{number:{form}}"
        for what, number in ((name, value), ("luck ", chance))
        if number is not None and not math.isnan(number)
    ]
    return ", ".join(given) if name == "" or (value is not None and not math.isnan(value)) else ""


def pairs_lines(run: RunFolder, summaries: Sequence[LayerSummary]) -> list[str]:
    """The pairs of words that fit units better than one word does, at the last epoch of each layer.

    Args:
        run: the run.
        summaries: of its layers.
    """
    import pandas as pd

    folders = {record.epoch: record.folder for record in run.checkpoints()}
    lines = []
    for one in {(one.layer, one.detector): one for one in summaries}.values():
        path = run.table_path(folders[one.epoch], one.layer, f"{one.detector}.pairs")
        if not path.is_file():
            continue
        rows = pd.read_csv(path, keep_default_na=False)
        best = rows[rows["rank"] == 1]
        better = best[best["score"] > best["single_score"]]
        gain = (better["score"] - better["single_score"]).sort_values(ascending=False, kind="stable")
        shown = better.loc[gain.index].head(_PAIRS)
        named = ", ".join(
            f"{unit} {pair}" for unit, pair in zip(shown["unit"], shown["concept"], strict=True)
        )
        lines.append(
            f"{one.layer}, epoch {one.epoch}: two words fit {len(better)} of {len(best)} units better "
            f"than one, which "
            f"more words do by luck too{': ' + named if named else ''}"
        )
    return lines


def held_out_lines(summaries: Sequence[LayerSummary]) -> list[str]:
    """How well labels hold on images that had no part in choosing them, at the last epoch of each layer."""
    last = {(one.layer, one.detector): one for one in summaries}
    return [held_out_line(one) for one in last.values() if one.held_out_word]


def held_out_line(one: LayerSummary) -> str:
    """The same of one layer at one epoch, in a sentence."""
    where = f"{one.layer} ({one.detector}), epoch {one.epoch}, held out"
    if one.held_out is None or one.held_out_chance is None:
        return f"{where}: not known, too few units or images to say whether labels predict activations"
    said = held_out_sentence(one.held_out, one.held_out_chance, one.held_out_word, one.held_out_measure)
    return f"{where}: {said}"


def held_out_sentence(value: float, chance: float, word: str | None, measure: str | None) -> str:
    """How well labels of one half of the images hold on the other, beside chance.

    Args:
        value: mean over the units.
        chance: the same of other units' labels.
        word: the difference in a word.
        measure: `auc`, how well labels predict activations; `iou`, how well they overlap the units.
    """
    judged = {None: "", "not known": " (too few units or images to tell)"}.get(word, f", {word}")
    if measure == "iou":
        what, name = "labels of one half of the images overlap the units on the other half", "IoU"
    else:
        what, name = (
            "labels of one half of the images tell active images of the other half from the rest",
            "AUC",
        )
    return f"{what}{judged}: {name} {value:.3f}, labels of other units {chance:.3f}"


def _layer_table(epochs: list[LayerSummary]) -> Table:
    from rich.text import Text

    first = epochs[0]
    dead = f", up to {max(e.dead for e in epochs)} dead" if any(e.dead for e in epochs) else ""
    table = plain_table(f"{first.layer}: {counted(first.units, 'units')}{dead} ({first.detector})")
    tested = any(epoch.sure_changes is not None for epoch in epochs)
    luck = any(epoch.changed_by_luck is not None and epoch.changed is not None for epoch in epochs)
    # Changes that other images would not undo; where that was not tested, labels that differ from those of
    # the epoch before. Beside both, how many luck gives.
    changed = "changes\n(by luck)" if tested else "relabelled\n(by luck)" if luck else "relabelled"
    by_luck = any(epoch.interpretable_by_luck is not None for epoch in epochs)
    named = "interpretable\n(by luck)" if by_luck else "interpretable"
    for heading in ("epoch", named, "concepts", changed):
        table.add_column(heading, justify="right", no_wrap=True)
    # The only column that may be cut where the terminal is narrow: its cells end in an ellipsis.
    table.add_column("most certain (unit concept)")
    for epoch in _chosen(epochs):
        if epoch is None:
            table.add_row("...", "", "", "", "")
            continue
        share = _share(epoch.interpretable, epoch.units)
        if epoch.interpretable_by_luck is not None:
            share += f" ({epoch.interpretable_by_luck})"
        best = ", ".join(f"{unit} {concept}" for unit, concept, _ in epoch.best) or "-"
        pair = (epoch.sure_changes, epoch.sure_by_luck) if tested else (epoch.changed, epoch.changed_by_luck)
        best_ones = Text(best, no_wrap=True, overflow="ellipsis")
        table.add_row(str(epoch.epoch), share, str(epoch.distinct), with_luck(*pair), best_ones)
    if first.random is not None:
        count, distinct = first.random
        table.add_row("random", _share(count, first.units), str(distinct), "", "(random weights)")
    return table


def _share(count: int, units: int) -> str:
    return f"{count}, {count / max(units, 1):.0%}"


def p_text(value: float | None, floor: float | None) -> str:
    """A p-value as it is shown. At the floor of its null distribution it is only known to be below.

    Args:
        value: the p-value; `None` where there is none.
        floor: the smallest that the draws allow, `1 / (draws + 1)`; `None` where it is not known.
    """
    if value is None or math.isnan(value):
        return ""
    if floor is not None and value <= floor * (1 + 1e-6):
        return f"< {floor:.1g}" if floor < 0.001 else f"< {floor:.2g}"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _chosen(epochs: list[LayerSummary]) -> list[LayerSummary | None]:
    if len(epochs) <= _MOST_LINES:
        return list(epochs)
    half = _MOST_LINES // 2
    return [*epochs[:half], None, *epochs[-half:]]
