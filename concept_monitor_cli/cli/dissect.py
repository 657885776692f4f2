"""`cmon dissect`: the main job."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_args

import click

from concept_monitor_cli.cli.app import DONE, PART_DONE, argument, cmon_command
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import (
    COUNT,
    EPOCHS,
    FRACTION,
    OUTPUT_PANEL,
    SHARD,
    Choice,
    File,
    Spec,
    Text,
    Triple,
    Words,
    dry_run_option,
    gather,
    machine_options,
    model_option,
    option,
    out_option,
    plot_option,
    trust_option,
)
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import (
    DETECTORS,
    SIMILARITIES,
    DissectOptions,
    Interpolation,
    IouNormaliser,
    Null,
    Pooling,
)

_DEFAULT = DissectOptions(checkpoints=(), layers=())

WHAT = "What to dissect"
NETWORK = "Network"
PROBE = "Probe images, concepts, encoder"
METHOD = "Method"


@cmon_command(
    name="dissect",
    resumable=True,
    examples=[
        ("cmon dissect ckpts/ --layer layer4", "try it: built-in images, concepts and encoder"),
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
@argument(
    "checkpoints",
    nargs=-1,
    required=True,
    metavar="CKPTS...",
    help="A folder of checkpoints, a file, or a glob. Several may be given.",
)
@option(
    "--layer",
    "-l",
    metavar="NAME",
    type=Words(),
    multiple=True,
    panel=WHAT,
    help="Layer, as `cmon layers` lists them; a comma list for several.",
)
@option(
    "--detector",
    "-d",
    metavar="NAME",
    type=Words(DETECTORS),
    multiple=True,
    default=_DEFAULT.detectors,
    panel=WHAT,
    help="clip-dissect: what the unit's favourite images are about. network-dissection: what it fires on, by "
    "masks. compositional: the same, with OR, AND, AND NOT.",
)
@option(
    "--epochs",
    metavar="LIST",
    type=EPOCHS,
    panel=WHAT,
    shown_default="all",
    help="Only these: 0,5,10 or 0:30:5 (0, 5, ..., 30) or 20: or first,last.",
)
@option(
    "--shard",
    metavar="I/N",
    type=SHARD,
    panel=WHAT,
    shown_default="what SLURM says, else all",
    help="This process's share of the checkpoints: 1/8 to 8/8.",
)
@model_option
@option(
    "--input-size",
    metavar="PIXELS",
    type=COUNT,
    panel=NETWORK,
    shown_default="the architecture's own",
    help="Side of the square that the network sees. Checkpoints do not say; a wrong guess spoils the labels.",
)
@option(
    "--crop",
    metavar="SHARE",
    type=FRACTION,
    panel=NETWORK,
    shown_default="the architecture's own",
    help="Side of the centre crop as a share of the resized image: 0.875 for 224 of 256, 1 for no crop.",
)
@option(
    "--mean",
    metavar="R,G,B",
    type=Triple(),
    panel=NETWORK,
    shown_default="the architecture's own",
    help="Subtracted from pixels in 0..1.",
)
@option(
    "--std",
    metavar="R,G,B",
    type=Triple(),
    panel=NETWORK,
    shown_default="the architecture's own",
    help="By which pixels are divided then.",
)
@option(
    "--interpolation",
    metavar="NAME",
    type=Choice(get_args(Interpolation)),
    panel=NETWORK,
    shown_default="the architecture's own",
    help="Of resizing: nearest, bilinear, bicubic or lanczos.",
)
@option(
    "--pooling",
    metavar="NAME",
    type=Choice(get_args(Pooling)),
    default=_DEFAULT.pooling,
    panel=NETWORK,
    help="From a map to a number: mean, max, cls (class token) or tokens (mean of the patch tokens). auto: "
    "cls for transformers with a class token, else mean.",
)
@trust_option
@option("--compile", switch=True, panel=NETWORK, help="Use torch.compile: slow to start, then faster.")
@option(
    "--probe",
    metavar="IMAGES",
    type=Spec(),
    panel=PROBE,
    shown_default="builtin",
    help="An image folder, a Broden directory, cifar10:DIR, cifar100:DIR, a .npz or .h5 of images, "
    "or builtin.",
)
@option(
    "--probe-limit",
    metavar="N",
    type=COUNT,
    panel=PROBE,
    shown_default="all",
    help="At most so many images, drawn at random (--seed).",
)
@option(
    "--concepts",
    metavar="WORDS",
    type=Spec(),
    panel=PROBE,
    shown_default="the probe's labels, else common",
    help="A text file (one a line), a CSV (concept,category), broden, imagenet, common or builtin.",
)
@option(
    "--encoder",
    metavar="NAME",
    type=Spec(),
    panel=PROBE,
    shown_default="ViT-B-16/openai; builtin for the built-in probe",
    help="An open_clip model as NAME/PRETRAINED or hf-hub:..., NAME with --encoder-weights, "
    "embeddings:FILE.h5, or builtin.",
)
@option("--encoder-weights", metavar="FILE", type=File(), panel=PROBE, help="Local weights for --encoder.")
@option(
    "--encoder-config",
    metavar="JSON",
    type=File(),
    panel=PROBE,
    help="Its config in open_clip's format.",
)
@option(
    "--template",
    metavar="TEXT",
    type=Text(),
    multiple=True,
    panel=PROBE,
    shown_default="the bare word",
    help="A prompt with {} for the concept: 'a photo of a {}'.",
)
@option(
    "--similarity",
    metavar="NAME",
    type=Choice(SIMILARITIES),
    default=_DEFAULT.similarity,
    panel=METHOD,
    help="Of clip-dissect: cos, cos-cubed, rank-reorder, wpmi or soft-wpmi.",
)
@option(
    "--top-concepts",
    metavar="K",
    type=COUNT,
    default=_DEFAULT.top_concepts,
    panel=METHOD,
    help="Concepts per unit in the tables.",
)
@option(
    "--null",
    metavar="NAME",
    type=Choice(get_args(Null)),
    default=_DEFAULT.null,
    panel=METHOD,
    help="What a label must beat to count: shuffled (chance) or untrained (the same network, random "
    "weights).",
)
@option(
    "--fdr",
    "--alpha",
    "fdr",
    metavar="SHARE",
    type=FRACTION,
    default=_DEFAULT.fdr,
    panel=METHOD,
    help="False discoveries allowed among the units called interpretable.",
)
@option(
    "--iou-normaliser",
    metavar="NAME",
    type=Choice(get_args(IouNormaliser)),
    panel=METHOD,
    shown_default="category; none for compositional",
    help="Which of a unit's pixels count: category (as Network Dissection), mask (as NetDissect-Lite), none.",
)
@option(
    "--length",
    metavar="N",
    type=click.IntRange(1, 10),
    default=_DEFAULT.length,
    panel=METHOD,
    help="Most concepts in a formula of compositional.",
)
@option(
    "--beam",
    metavar="N",
    type=COUNT,
    default=_DEFAULT.beam,
    panel=METHOD,
    help="Formulas kept at each length of compositional.",
)
@machine_options
@out_option
@option(
    "--overwrite",
    switch=True,
    panel=OUTPUT_PANEL,
    risky=bool,
    help="Start the run in --out anew instead of adding to it.",
)
@option("--save-scores", switch=True, panel=OUTPUT_PANEL, help="Keep the scores of all concepts, too.")
@plot_option
@dry_run_option
@click.pass_context
def command(ctx: click.Context, /, console: Console, **values: Any) -> int:
    """Find the concept that each unit of a layer detects, at every epoch.

    CKPTS are the checkpoints of one training; the architecture is recognised. The run in --out gets a table
    per epoch, layer and detector, and run.json, which says what was run on what. What was computed once is
    kept in the cache and not computed again.
    """
    if not values["layer"]:
        raise InputError(
            "no layer is named",
            where="--layer",
            hint=f"see what there is: cmon layers {values['checkpoints'][0]}",
        )
    options = gather(DissectOptions, ctx, values)

    from concept_monitor_cli import pipeline

    result = pipeline.dissect(options, console)
    if options.dry_run:
        console.result({**asdict(result), "dry_run": True})
        return DONE

    from concept_monitor_cli.cli.show_run import run_tables
    from concept_monitor_cli.monitor.summary import summarise
    from concept_monitor_cli.run import RunFolder

    summaries = summarise(RunFolder.open(options.out).concepts(layers=options.layers))
    console.result({**asdict(result), "dry_run": False, "summary": [item.as_dict() for item in summaries]})
    if not console.json:
        console.print(*run_tables(summaries))
        console.print(f"Tables and run.json are in {options.out}.")
    return PART_DONE if result.failed else DONE
