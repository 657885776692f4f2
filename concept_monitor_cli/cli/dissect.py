"""`cmon dissect`: the main job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concept_monitor_cli.catalogue import find_detector, is_code
from concept_monitor_cli.cli.app import DONE, PART_DONE, cmon_app, cmon_command
from concept_monitor_cli.cli.config import Risky
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import (
    NETWORK,
    OUTPUT,
    PNG,
    BatchSize,
    CacheDir,
    Checkpoints,
    Device,
    DryRun,
    GreyRange,
    InputSize,
    Model,
    Order,
    Out,
    PlotFormats,
    Precision,
    Prefix,
    Rgb,
    Seed,
    Series,
    TrustPickle,
    WeightsKey,
    Workers,
    comma_list,
    count,
    detectors_help,
    from_zero,
    gather,
    grey_range,
    number,
    one_of,
    parsed,
    path,
    rgb,
    share,
    spec,
)
from concept_monitor_cli.cli.sizes import readable_size
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import (
    BasisSpec,
    DissectOptions,
    EpochFilter,
    Interpolation,
    IouNormaliser,
    LabelRule,
    Null,
    Pooling,
    Shard,
    Similarity,
)

if TYPE_CHECKING:
    from concept_monitor_cli.stories.plan import Plan

app = cmon_app()

_DEFAULT = DissectOptions(checkpoints=(), layers=())

# As a list, because the option repeats.
_DETECTORS: list[str] = list(_DEFAULT.detectors)

_BASES: list[str] = list(_DEFAULT.bases)

_WHAT = "What to dissect"
_PROBE = "Probe images, concepts, encoder"
_METHOD = "Method"


def names_code(value: Any) -> bool:
    """Whether the value of `--detector` names a file or module of code."""
    return any(is_code(str(name)) for name in (value if isinstance(value, list | tuple) else [value]))


@cmon_command(
    app,
    "dissect",
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
def dissect(
    console: Console,
    ctx: typer.Context,
    checkpoints: Checkpoints,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            "-l",
            metavar="NAME",
            callback=comma_list(),
            rich_help_panel=_WHAT,
            help="Layer, as `cmon layers` lists them; a comma list for several.",
        ),
    ] = None,
    basis: Annotated[
        list[str],
        typer.Option(
            metavar="BASIS",
            callback=comma_list(check=BasisSpec.parse),
            rich_help_panel=_WHAT,
            help="What counts as a unit: channels, random:R[:seed] or pca:R (directions), nmf:R "
            "(non-negative factors), or saved:FILE (.npy, .npz, .safetensors: concept vectors, the encoder "
            "of a sparse autoencoder). A comma list for several.",
        ),
    ] = _BASES,
    detector: Annotated[
        list[str],
        typer.Option(
            "--detector",
            "-d",
            metavar="NAME",
            callback=comma_list(check=find_detector),
            rich_help_panel=_WHAT,
            help=detectors_help(),
        ),
        Risky(names_code),
    ] = _DETECTORS,
    epochs: Annotated[
        EpochFilter | None,
        typer.Option(
            metavar="LIST",
            parser=parsed(EpochFilter.parse),
            rich_help_panel=_WHAT,
            show_default="all",
            help="Only these: 0,5,10 or 0:30:5 (0, 5, ..., 30) or 20: or first,last.",
        ),
    ] = None,
    shard: Annotated[
        Shard | None,
        typer.Option(
            metavar="I/N",
            parser=parsed(Shard.parse),
            rich_help_panel=_WHAT,
            show_default="what SLURM says, else all",
            help="This process's share of the checkpoints: 1/8 to 8/8.",
        ),
    ] = None,
    order: Order = _DEFAULT.order,
    series: Series = None,
    model: Model = None,
    input_size: InputSize = None,
    crop: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            parser=share,
            rich_help_panel=NETWORK,
            show_default="the architecture's own",
            help="Side of the centre crop as a share of the resized image: 0.875 for 224 of 256, 1 for no "
            "crop.",
        ),
    ] = None,
    mean: Annotated[
        Rgb | None,
        typer.Option(
            metavar="R,G,B",
            parser=rgb,
            rich_help_panel=NETWORK,
            show_default="the architecture's own",
            help="Subtracted from pixels in 0..1.",
        ),
    ] = None,
    std: Annotated[
        Rgb | None,
        typer.Option(
            metavar="R,G,B",
            parser=rgb,
            rich_help_panel=NETWORK,
            show_default="the architecture's own",
            help="By which pixels are divided then.",
        ),
    ] = None,
    interpolation: Annotated[
        Interpolation | None,
        typer.Option(
            metavar="NAME",
            parser=one_of(Interpolation),
            rich_help_panel=NETWORK,
            show_default="the architecture's own",
            help="Of resizing: nearest, bilinear, bicubic or lanczos.",
        ),
    ] = None,
    pooling: Annotated[
        Pooling,
        typer.Option(
            metavar="NAME",
            parser=one_of(Pooling),
            rich_help_panel=NETWORK,
            help="From a map to a number: mean, max, cls (class token) or tokens (mean of the patch tokens). "
            "auto: what the network's own head reads, else mean.",
        ),
    ] = _DEFAULT.pooling,
    trust_pickle: TrustPickle = _DEFAULT.trust_pickle,
    prefix: Prefix = None,
    weights_key: WeightsKey = None,
    compile: Annotated[
        bool,
        typer.Option(
            rich_help_panel=NETWORK,
            help="Use torch.compile: slow to start, then faster.",
        ),
    ] = _DEFAULT.compile,
    probe: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            parser=spec,
            rich_help_panel=_PROBE,
            show_default="builtin",
            help="A folder of images, with or without masks, a Broden directory, cifar10:DIR, cifar100:DIR, "
            "an archive or array of images, a pattern, or builtin.",
        ),
    ] = None,
    probe_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=count,
            rich_help_panel=_PROBE,
            show_default="all",
            help="At most so many images, drawn at random (--seed).",
        ),
    ] = None,
    grey_range: Annotated[
        GreyRange | None,
        typer.Option(
            metavar="LOW,HIGH",
            parser=grey_range,
            rich_help_panel=_PROBE,
            show_default="the set's own range",
            help="Greys shown black and white, for images of more than 8 bits (X-rays, CT).",
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            parser=spec,
            rich_help_panel=_PROBE,
            show_default="copies, which are looked for",
            help="Images that count as one (frames of a video, slices of a patient): a CSV with image,group; "
            "or parent, for those of one folder.",
        ),
    ] = None,
    concepts: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            parser=spec,
            rich_help_panel=_PROBE,
            show_default="the probe's labels, else common",
            help="A text file (one a line), a CSV (concept,category), broden, imagenet, common or builtin.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            parser=spec,
            rich_help_panel=_PROBE,
            show_default="ViT-B-16/openai; builtin for the built-in probe",
            help="An open_clip model as NAME/PRETRAINED or hf-hub:..., NAME with --encoder-weights, "
            "embeddings:FILE.h5, or builtin.",
        ),
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=path,
            rich_help_panel=_PROBE,
            help="Local weights for --encoder.",
        ),
    ] = None,
    encoder_config: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            parser=path,
            rich_help_panel=_PROBE,
            help="Its config in open_clip's format.",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            callback=comma_list(separator="\n"),
            rich_help_panel=_PROBE,
            show_default="the bare word",
            help="A prompt with {} for the concept: 'a photo of a {}'.",
        ),
    ] = None,
    similarity: Annotated[
        Similarity,
        typer.Option(
            metavar="NAME",
            parser=one_of(Similarity),
            rich_help_panel=_METHOD,
            help="Of activations and concepts: cos, cos-cubed, rank-reorder, wpmi or soft-wpmi.",
        ),
    ] = _DEFAULT.similarity,
    top_concepts: Annotated[
        int,
        typer.Option(
            metavar="K",
            parser=count,
            rich_help_panel=_METHOD,
            help="Concepts per unit in the tables.",
        ),
    ] = _DEFAULT.top_concepts,
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            parser=count,
            rich_help_panel=_METHOD,
            show_default="by the number of images",
            help="Top images of a unit that soft-wpmi and wpmi look at, one of each group.",
        ),
    ] = None,
    stability: Annotated[
        bool,
        typer.Option(
            "--stability/--no-stability",
            rich_help_panel=_METHOD,
            help="Draw the images again, to say how sure each concept is.",
        ),
    ] = _DEFAULT.stability,
    pairs: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=from_zero,
            rich_help_panel=_METHOD,
            show_default="none",
            help="Also try two concepts in one text, of each unit's N best; the paper takes 100.",
        ),
    ] = _DEFAULT.pairs,
    null: Annotated[
        Null,
        typer.Option(
            metavar="NAME",
            parser=one_of(Null),
            rich_help_panel=_METHOD,
            help="What a label must beat to count: shuffled (chance) or untrained (the same network, random "
            "weights).",
        ),
    ] = _DEFAULT.null,
    fdr: Annotated[
        float,
        typer.Option(
            "--fdr",
            "--alpha",
            metavar="SHARE",
            parser=share,
            rich_help_panel=_METHOD,
            help="False discoveries allowed among the units called interpretable.",
        ),
    ] = _DEFAULT.fdr,
    iou_normaliser: Annotated[
        IouNormaliser | None,
        typer.Option(
            metavar="NAME",
            parser=one_of(IouNormaliser),
            rich_help_panel=_METHOD,
            show_default="as in the detector's paper",
            help="Which of a unit's pixels count: category (as Network Dissection), mask (as "
            "NetDissect-Lite), none.",
        ),
    ] = None,
    label_rule: Annotated[
        LabelRule,
        typer.Option(
            metavar="NAME",
            parser=one_of(LabelRule),
            rich_help_panel=_METHOD,
            help="The label that network-dissection gives a unit and tests: supported (the highest IoU that "
            "does not hang on a single image) or iou (the highest IoU, as in the literature).",
        ),
    ] = _DEFAULT.label_rule,
    length: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=number(int, least=1, most=10),
            rich_help_panel=_METHOD,
            help="Most concepts in a formula.",
        ),
    ] = _DEFAULT.length,
    beam: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=count,
            rich_help_panel=_METHOD,
            help="Formulas kept at each length.",
        ),
    ] = _DEFAULT.beam,
    floors: Annotated[
        bool,
        typer.Option(
            "--floors/--no-floors",
            rich_help_panel=_METHOD,
            help="Also dissect the network with random weights, once for all checkpoints: what spread "
            "and drift are compared with.",
        ),
    ] = _DEFAULT.floors,
    device: Device = _DEFAULT.device,
    precision: Precision = _DEFAULT.precision,
    batch_size: BatchSize = _DEFAULT.batch_size,
    workers: Workers = None,
    cache_dir: CacheDir = None,
    seed: Seed = _DEFAULT.seed,
    out: Out = _DEFAULT.out,
    overwrite: Annotated[
        bool,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Start the run in --out anew instead of adding to it.",
        ),
        Risky(bool),
    ] = _DEFAULT.overwrite,
    save_scores: Annotated[
        bool,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Keep the scores of all concepts, too.",
        ),
    ] = _DEFAULT.save_scores,
    plot_format: PlotFormats = PNG,
    dry_run: DryRun = _DEFAULT.dry_run,
) -> int:
    """Find the concept that each unit of a layer detects, at every epoch.

    CKPTS are the checkpoints of one training; the architecture is recognised. The run in --out gets a table
    per epoch, layer and detector, and run.json, which says what was run on what. What was computed once is
    kept in the cache and not computed again.
    """
    if not layer:
        raise InputError(
            "no layer is named",
            where="--layer",
            hint=f"see what there is: cmon layers {checkpoints[0]}",
        )
    options = gather(DissectOptions, ctx)

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

    from concept_monitor_cli.cli.show_run import agreement_lines, held_out_lines, run_tables
    from concept_monitor_cli.monitor.agreement import latest
    from concept_monitor_cli.monitor.summary import summarise
    from concept_monitor_cli.run import RunFolder

    run = RunFolder.open(options.out)
    records = [record for _, record in run.table_records()]
    summaries = summarise(run.concepts(layers=options.layers_in_tables), records)
    compared = latest(run.agreement(), options.layers_in_tables)
    console.result(
        {
            **asdict(result),
            "dry_run": False,
            "summary": [item.as_dict() for item in summaries],
            "agreement": compared.to_dict("records"),
        }
    )
    if not console.json:
        console.print(*run_tables(summaries), *map(Text, agreement_lines(compared)))
        console.print(f"Tables and run.json are in {options.out}.")
        console.print(*map(Text, held_out_lines(summaries)))
    return PART_DONE if result.failed else DONE


def _lines(plan: Plan) -> Iterator[str]:
    """What a dry run says."""
    for step in plan.checkpoints:
        if step.forward_passes:
            passes = _passes(step.forward_passes)
            what = f"{passes} over {plan.images:,} images for {', '.join(step.layers)}"
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
    yield f"Together: {_passes(plan.forward_passes)}; {readable_size(plan.bytes)} to keep{spool}."


def _passes(count: int) -> str:
    return {0: "no forward pass", 1: "a forward pass"}.get(count, f"{count} forward passes")
