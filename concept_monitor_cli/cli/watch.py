"""`cmon watch`: dissect while training goes on."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Annotated, Any

import typer

from concept_monitor_cli import options as library
from concept_monitor_cli.cli import dissect as _dissect
from concept_monitor_cli.cli.app import DONE, PART_DONE, cmon_app, cmon_command
from concept_monitor_cli.cli.config import Risky
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import comma_list, count, duration, from_zero, gather, share
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import WatchOptions

app = cmon_app()

_DEFAULT = WatchOptions(checkpoints=(), layers=())
_WHEN = "When to look, when to stop"
_WARN = "What to warn of"
_KEPT = "What is kept current besides"


def _own(
    interval: Annotated[
        float,
        typer.Option(
            metavar="TIME",
            parser=duration,
            rich_help_panel=_WHEN,
            show_default="10s",
            help="Between two looks. A file that has not changed in between is complete.",
        ),
    ] = _DEFAULT.interval,
    idle: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=duration,
            rich_help_panel=_WHEN,
            show_default="never",
            help="Stop when nothing new has come for so long: 30min, 2h.",
        ),
    ] = None,
    until_epoch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=from_zero,
            rich_help_panel=_WHEN,
            show_default="never",
            help="Stop when this epoch is done.",
        ),
    ] = None,
    effective_drop: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            parser=share,
            rich_help_panel=_WARN,
            help="Units clump: the effective number of different ones fell by this share below its highest.",
        ),
    ] = _DEFAULT.effective_drop,
    redundant_rise: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            parser=share,
            rich_help_panel=_WARN,
            help="Units collapse: so much more of them are repeated by another one than at the best epoch.",
        ),
    ] = _DEFAULT.redundant_rise,
    dead_rise: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            parser=share,
            rich_help_panel=_WARN,
            help="Units die: so much more of them are dead than at the best epoch.",
        ),
    ] = _DEFAULT.dead_rise,
    patience: Annotated[
        int,
        typer.Option(
            metavar="K",
            parser=count,
            rich_help_panel=_WARN,
            help="Interpretable units fell at so many epochs one after the other.",
        ),
    ] = _DEFAULT.patience,
    on_alert: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            rich_help_panel=_WARN,
            show_default="none",
            help="Run for every warning, which comes as JSON on its standard input. No shell is in between.",
        ),
        Risky(bool),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            callback=comma_list(library.Kept),
            rich_help_panel=_KEPT,
            show_default="none",
            help="Keep the tables of these current, too: dynamics, factors (anchored).",
        ),
    ] = None,
) -> None:
    """The options that `dissect` has not."""


def watch(console: Console, ctx: typer.Context, **values: Any) -> int:
    """Dissect checkpoints as they land, while training goes on.

    All options of `cmon dissect` hold. Tables, statistics and report.html in --out are kept up to date (the
    page at most once a minute, and at the end). A warning is given, and kept in alerts.jsonl, when units
    clump, collapse (both by their activations), die, or ever fewer of them are interpretable.
    """
    if not values["layer"]:
        raise InputError("no layer is named", where="--layer", hint="name one as for `cmon dissect`")
    options = gather(WatchOptions, ctx)

    from concept_monitor_cli.stories.watch import watch as _watch

    result = _watch(options, console)
    console.result(asdict(result))
    if not console.json:
        console.print(f"{len(result.done)} checkpoints, {len(result.alerts)} warnings; see {options.out}.")
    return PART_DONE if result.failed else DONE


def with_options_of_dissect(function: Any, own: Any, *, without: tuple[str, ...]) -> Any:
    """Give a command the options of `dissect` and some of its own, as if it had them in its signature."""
    known = inspect.signature(_dissect.dissect, eval_str=True).parameters
    more = inspect.signature(own, eval_str=True).parameters
    function.__signature__ = inspect.Signature(
        [
            param.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for param in [*(param for name, param in known.items() if name not in without), *more.values()]
        ]
    )
    return function


cmon_command(
    app,
    "watch",
    resumable=True,
    examples=[
        ("cmon watch ckpts/ --layer layer4 --until-epoch 90", "beside a training of 90 epochs"),
        (
            "cmon watch ckpts/ -l layer4 --idle 2h --on-alert ./notify.sh",
            "until nothing comes any more; tell somebody",
        ),
    ],
)(with_options_of_dissect(watch, _own, without=("shard", "dry_run")))
