"""`cmon dissect`: the main job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from concept_monitor_cli.cli.app import DONE, PART_DONE, cmon_app, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.sizes import readable_size
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from concept_monitor_cli.stories.plan import Plan

app = cmon_app()


@cmon_command(
    app,
    "dissect",
    resumable=True,
    examples=[
        ("cmon dissect ckpts/", "try it: the last two stages; built-in images, concepts and encoder"),
        (
            "cmon dissect ckpts/ -l layer3,layer4 --probe broden1_224/",
            "a real probing set, with CLIP ViT-B/16 as encoder",
        ),
        (
            "cmon dissect ckpts/ -l layer4 --probe photos/ --concepts words.txt",
            "your own photos and words",
        ),
        ("cmon dissect ckpts/ --layer layer4 --epochs 0:90:10,last --dry-run", "what would be done?"),
    ],
)
def dissect(console: Console, options: DissectOptions) -> int:
    """Find the concept that each unit of a layer detects, at every epoch.

    CKPTS are the checkpoints of one training; the architecture is recognised. The run in --out gets a table
    per epoch, layer and detector, and run.json, which says what was run on what. What was computed once is
    kept in the cache and not computed again.
    """
    if options.dry_run:
        from concept_monitor_cli.stories.plan import plan

        planned = plan(options, console)
        console.result({**asdict(planned), "dry_run": True})
        if not console.json:
            console.print("\n".join(_lines(planned)))
        return PART_DONE if planned.failed else DONE

    from concept_monitor_cli.stories.dissect import dissect as _dissect

    result = _dissect(options, console)
    # A share may be empty, where there are more shares than checkpoints, or have broken ones only.
    if not result.done:
        console.result({**asdict(result), "dry_run": False})
        return PART_DONE if result.failed else DONE

    from rich.text import Text

    from concept_monitor_cli.cli.show_run import (
        agreement_lines,
        caption_lines,
        finding_lines,
        held_out_lines,
        pairs_lines,
        run_tables,
        summaries_of,
    )
    from concept_monitor_cli.monitor.agreement import latest
    from concept_monitor_cli.run import RunFolder

    run = RunFolder.open(options.out)
    summaries = summaries_of(run, result.layers)
    compared = latest(run.agreement(), result.layers)
    console.result(
        {
            **asdict(result),
            "dry_run": False,
            "summary": [item.as_dict() for item in summaries],
            "agreement": compared.to_dict("records"),
        }
    )
    if not console.json:
        console.print(*finding_lines(result.findings))
        console.print(*run_tables(summaries), *map(Text, agreement_lines(compared)))
        console.print(*map(Text, pairs_lines(run, summaries)))
        console.print(f"Tables and run.json are in {options.out}.")
        console.print(*map(Text, held_out_lines(summaries)))
        console.print(*map(Text, caption_lines(run)))
    return PART_DONE if result.failed else DONE


def _lines(plan: Plan) -> Iterator[str]:
    """What a dry run says."""
    for step in plan.checkpoints:
        if step.forward_passes:
            passes = _passes(step.forward_passes)
            what = f"{passes} over {counted(plan.own_images, 'images')} for {', '.join(step.layers)}"
            what += f"; {readable_size(step.bytes)} to keep"
        else:
            what = f"no forward pass; {step.known_tables} of {step.tables} tables known"
        yield f"{step.checkpoint} (epoch {step.epoch}): {what}"
    if plan.untrained_passes:
        size = readable_size(plan.untrained_bytes)
        yield f"untrained networks: {_passes(plan.untrained_passes)}; {size} to keep"
    if plan.floor_passes:
        yield f"random weights, for floors: {_passes(plan.floor_passes)} (--no-floors leaves it out)"
    if plan.decode:
        yield f"{plan.decode:,} images to decode; {readable_size(plan.decode_bytes)} to keep"
    if plan.embed:
        yield f"{plan.embed:,} images to embed"
    spool = f", and {readable_size(plan.spool)} for a while" if plan.spool else ""
    passes = _passes(plan.forward_passes + plan.floor_passes)
    yield f"Together: {passes}; {readable_size(plan.bytes)} to keep{spool}."


def _passes(count: int) -> str:
    return {0: "no forward pass", 1: "a forward pass"}.get(count, f"{count} forward passes")
