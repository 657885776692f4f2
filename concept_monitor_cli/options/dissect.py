"""The options of `cmon dissect` and of the commands that dissect in another way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from concept_monitor_cli.catalogue import default_detectors, detectors, find_detector, is_code
from concept_monitor_cli.options.common import (
    CommonOptions,
    InputSizeOptions,
    LoadingOptions,
    PlotOptions,
    TrainingOptions,
    epochs_option,
)
from concept_monitor_cli.options.declare import (
    KEPT,
    METHOD,
    NETWORK,
    OUTPUT,
    PICTURE,
    PROBE,
    SLURM,
    WARN,
    WHAT,
    WHEN,
    option,
)
from concept_monitor_cli.options.kinds import (
    AUTO,
    CHANNELS,
    BasisSpec,
    ChannelOrder,
    EpochFilter,
    FormulaSearch,
    ImageShard,
    Interpolation,
    IouNormaliser,
    Kept,
    LabelRule,
    Null,
    Pooling,
    Shard,
    Similarity,
    Triple,
    basis_name,
)
from concept_monitor_cli.options.values import (
    count,
    duration,
    from_zero,
    grey_range,
    minutes,
    number,
    of_text,
    path,
    rgb,
    share,
    slurm_memory,
    slurm_name,
    spec,
    unit_list,
)


def detectors_help() -> str:
    """A line for each detector that there is."""
    listed = [f"{each.name}: {each.summary}" for each in detectors().values()]
    return ". ".join([*listed, "Or file.py:Class, one of your own"]) + "."


def name_code(value: Any) -> bool:
    """Whether the value of `--detector` names a file or module of code."""
    return any(is_code(str(name)) for name in (value if isinstance(value, list | tuple) else [value]))


@dataclass(frozen=True, kw_only=True)
class DissectOptions(PlotOptions, CommonOptions, InputSizeOptions, LoadingOptions, TrainingOptions):
    """The options of `cmon dissect`."""

    layers: tuple[str, ...] = option(
        (AUTO,),
        "Layer, as `cmon layers` lists them; a comma list for several. auto: the last two stages.",
        panel=WHAT,
        name="layer",
        flags=("--layer", "-l"),
        metavar="NAME",
    )
    bases: tuple[str, ...] = option(
        (CHANNELS,),
        "What counts as a unit: channels, random:R[:seed] or pca:R (directions), nmf:R (non-negative "
        "factors), vectors:RUN (what `cmon vectors` found) or saved:FILE (.npy, .npz, .safetensors: "
        "directions, the encoder of a sparse autoencoder). A comma list for several.",
        panel=WHAT,
        name="basis",
        metavar="BASIS",
        check=BasisSpec.parse,
    )
    detectors: tuple[str, ...] = option(
        default_detectors,
        detectors_help,
        panel=WHAT,
        name="detector",
        flags=("--detector", "-d"),
        metavar="NAME",
        check=find_detector,
        risky=name_code,
    )
    epochs: EpochFilter | None = epochs_option(WHAT)
    shard: Shard | None = option(
        None,
        "This process's share of the checkpoints: 1/8 to 8/8.",
        panel=WHAT,
        metavar="I/N",
        read=of_text(Shard.parse),
        shown="what SLURM says, else all",
    )
    shard_images: ImageShard | None = option(
        None,
        "So many tasks share the images of each checkpoint: 2; or 1/2 and 2/2.",
        panel=WHAT,
        metavar="[I/]N",
        read=of_text(ImageShard.parse),
        shown="each task sees all images",
    )

    crop: float | None = option(
        None,
        "Side of the centre crop as a share of the resized image: 0.875 for 224 of 256, 1 for no crop.",
        panel=NETWORK,
        metavar="SHARE",
        read=share,
        shown="the architecture's own",
    )
    mean: Triple | None = option(
        None,
        "Subtracted from pixels in 0..1.",
        panel=NETWORK,
        metavar="R,G,B",
        read=rgb,
        shown="the architecture's own",
    )
    std: Triple | None = option(
        None,
        "By which pixels are divided then.",
        panel=NETWORK,
        metavar="R,G,B",
        read=rgb,
        shown="the architecture's own",
    )
    interpolation: Interpolation | None = option(
        None,
        "Of resizing: nearest, bilinear, bicubic or lanczos.",
        panel=NETWORK,
        metavar="NAME",
        shown="the architecture's own",
    )
    channel_order: ChannelOrder | None = option(
        None,
        "Of the colours as the network sees them: rgb, or bgr (training images read by OpenCV).",
        panel=NETWORK,
        metavar="NAME",
        shown="rgb",
    )
    evidence: bool = option(
        False,
        "Look in the network's batch normalisation for how the images of its training were normalised, and "
        "which of several architectures that fit it is; follow it where that is clear. Shows some probing "
        "images a few dozen times.",
        panel=NETWORK,
    )
    pooling: Pooling = option(
        "auto",
        "From a map to a number: mean, max, cls (class token) or tokens (mean of the patch tokens). auto: "
        "what the network's own head reads, else mean.",
        panel=NETWORK,
        metavar="NAME",
    )
    compile: bool = option(False, "Use torch.compile: slow to start, then faster.", panel=NETWORK)

    probe: str | None = option(
        None,
        "A folder of images, with or without masks, a Broden directory, cifar10:DIR, cifar100:DIR, an "
        "archive or array of images, a pattern, or builtin.",
        panel=PROBE,
        metavar="IMAGES",
        read=spec,
        shown="builtin",
    )
    probe_limit: int | None = option(
        None,
        "At most this many images, drawn at random (--seed).",
        panel=PROBE,
        metavar="N",
        read=count,
        shown="all",
    )
    grey_range: tuple[float, float] | None = option(
        None,
        "Greys shown black and white, for images of more than 8 bits (X-rays, CT).",
        panel=PROBE,
        metavar="LOW,HIGH",
        read=grey_range,
        shown="the set's own range",
    )
    groups: str | None = option(
        None,
        "Images that count as one (frames of a video, slices of a patient): a CSV with image,group; or "
        "parent, for those of one folder.",
        panel=PROBE,
        metavar="FILE",
        read=spec,
        shown="copies, which are looked for",
    )
    concepts: str | None = option(
        None,
        "A text file (one a line), a CSV (concept,category), broden, imagenet, common or builtin.",
        panel=PROBE,
        metavar="WORDS",
        read=spec,
        shown="the probe's labels, else common",
    )
    encoder: str | None = option(
        None,
        "An open_clip model as NAME/PRETRAINED or hf-hub:..., NAME with --encoder-weights, "
        "embeddings:FILE.h5, or builtin.",
        panel=PROBE,
        metavar="NAME",
        read=spec,
        shown="ViT-B-16/openai; builtin for the built-in probe",
    )
    encoder_weights: Path | None = option(
        None, "Local weights for --encoder.", panel=PROBE, metavar="FILE", read=path
    )
    encoder_config: Path | None = option(
        None, "Its config in open_clip's format.", panel=PROBE, metavar="JSON", read=path
    )
    templates: tuple[str, ...] = option(
        (),
        "A prompt with {} for the concept: 'a photo of a {}'.",
        panel=PROBE,
        name="template",
        metavar="TEXT",
        separator="\n",
        shown="the bare word",
    )

    similarity: Similarity = option(
        "soft-wpmi",
        "Of activations and concepts: cos, cos-cubed, rank-reorder, wpmi or soft-wpmi.",
        panel=METHOD,
        metavar="NAME",
    )
    top_concepts: int = option(5, "Concepts per unit in the tables.", panel=METHOD, metavar="K", read=count)
    top_k: int | None = option(
        None,
        "Top images of a unit that soft-wpmi and wpmi look at, one of each group.",
        panel=METHOD,
        metavar="K",
        read=count,
        shown="by the number of images",
    )
    stability: bool = option(True, "Draw the images again, to say how sure each concept is.", panel=METHOD)
    pairs: int = option(
        0,
        "Also try two concepts in one text, of each unit's N best; the paper takes 100.",
        panel=METHOD,
        metavar="N",
        read=from_zero,
        shown="none",
    )
    null: Null = option(
        "shuffled",
        "What a label must beat to count: shuffled (chance) or untrained (the same network, random weights).",
        panel=METHOD,
        metavar="NAME",
    )
    fdr: float = option(
        0.05,
        "False discoveries allowed among the units called interpretable.",
        panel=METHOD,
        flags=("--fdr", "--alpha"),
        metavar="SHARE",
        read=share,
    )
    iou_normaliser: IouNormaliser | None = option(
        None,
        "Which of a unit's pixels count: category (as Network Dissection), mask (as NetDissect-Lite), none.",
        panel=METHOD,
        metavar="NAME",
        shown="as in the detector's paper",
    )
    label_rule: LabelRule = option(
        "supported",
        "The label that masks give a unit and that is tested: supported (the highest IoU that does not "
        "hang on a single image) or iou (the highest IoU, as in the literature).",
        panel=METHOD,
        metavar="NAME",
    )
    length: int = option(
        3, "Most concepts in a formula.", panel=METHOD, metavar="N", read=number(int, least=1, most=10)
    )
    beam: int = option(10, "Formulas kept at each length.", panel=METHOD, metavar="N", read=count)
    # In a settings file `search` is the section of that command.
    search: FormulaSearch = option(
        "auto",
        "How detectors of formulas look for them: optimal (proves the best of at most three concepts), beam, "
        "or auto (a proof for units where it takes few steps, else the beam).",
        panel=METHOD,
        name="formula_search",
        flags=("--search", "--formula-search"),
        metavar="NAME",
    )
    captioner: str = option(
        "phrases",
        "Who describes units in sentences: phrases (concepts, and pairs of an attribute and a thing, ranked "
        "by --encoder), coca:NAME/PRETRAINED, coca:NAME,WEIGHTS, or hf:FOLDER (BLIP, GIT).",
        panel=METHOD,
        metavar="NAME",
        read=spec,
    )
    prior_weight: float | None = option(
        None,
        "Weight of a description's own probability, which is taken off: 0 leaves the likelihood.",
        panel=METHOD,
        metavar="NUMBER",
        read=number(float, least=0),
        shown="1 for phrases, 0.2 for captioners",
    )
    floors: bool = option(
        True,
        "Also dissect the network with random weights, once for all checkpoints: what spread and drift are "
        "compared with.",
        panel=METHOD,
    )

    overwrite: bool = option(
        False, "Start the run in --out anew instead of adding to it.", panel=OUTPUT, risky=bool
    )
    save_scores: bool = option(False, "Keep the scores of all concepts, too.", panel=OUTPUT)

    @property
    def layers_in_tables(self) -> tuple[str, ...]:
        """The names of the layers in the tables: each in each of the bases."""
        specs = [BasisSpec.parse(basis) for basis in self.bases]
        return tuple(
            layer if spec is None else basis_name(layer, spec) for layer in self.layers for spec in specs
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions(DissectOptions):
    """The options of `cmon run`: those of `dissect`, and what the map and the page show."""

    without: ClassVar[tuple[str, ...]] = ("dry_run", "save_scores")

    anchors: tuple[str, ...] = option(
        (),
        "Words that mark places on the map: a comma list, or a .txt file with one a line.",
        panel=PICTURE,
        flags=("--anchors", "-a"),
        metavar="WORDS",
        shown="the most frequent concepts",
    )
    units: tuple[int, ...] = option(
        (),
        "Units that are followed on the map: 256,479 or 10-19.",
        panel=PICTURE,
        flags=("--units", "-u"),
        metavar="LIST",
        read=unit_list,
        shown="those that change most",
    )


@dataclass(frozen=True, kw_only=True)
class WatchOptions(DissectOptions):
    """The options of `cmon watch`: those of `dissect`, when to look and to stop, and what to warn of."""

    without: ClassVar[tuple[str, ...]] = ("shard", "shard_images", "dry_run")

    interval: float = option(
        10.0,
        "Between two looks. A file that has not changed in between is complete.",
        panel=WHEN,
        metavar="TIME",
        read=duration,
        shown="10s",
    )
    idle: float | None = option(
        None,
        "Stop when nothing new has come for so long: 30min, 2h.",
        panel=WHEN,
        metavar="TIME",
        read=duration,
        shown="never",
    )
    until_epoch: int | None = option(
        None, "Stop when this epoch is done.", panel=WHEN, metavar="N", read=from_zero, shown="never"
    )
    effective_drop: float = option(
        0.15,
        "Units clump: the effective number of different ones fell by this share below its highest.",
        panel=WARN,
        metavar="SHARE",
        read=share,
    )
    redundant_rise: float = option(
        0.2,
        "Units collapse: so much more of them are repeated by another one than at the best epoch.",
        panel=WARN,
        metavar="SHARE",
        read=share,
    )
    dead_rise: float = option(
        0.05,
        "Units die: so much more of them are dead than at the best epoch.",
        panel=WARN,
        metavar="SHARE",
        read=share,
    )
    patience: int = option(
        3,
        "Interpretable units fell at this many epochs one after the other.",
        panel=WARN,
        metavar="K",
        read=count,
    )
    on_alert: str | None = option(
        None,
        "Run for every warning, which comes as JSON on its standard input. No shell is in between.",
        panel=WARN,
        metavar="COMMAND",
        shown="none",
        risky=bool,
    )
    keep: tuple[Kept, ...] = option(
        (),
        "Keep the tables of these current, too: dynamics, factors (anchored).",
        panel=KEPT,
        metavar="NAMES",
        shown="none",
    )


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(DissectOptions):
    """The options of `cmon submit dissect`: those of `dissect`, and what to ask SLURM for."""

    without: ClassVar[tuple[str, ...]] = ("shard",)

    partition: str | None = option(None, "SLURM's partition.", panel=SLURM, metavar="NAME", read=slurm_name)
    account: str | None = option(None, "Who is charged.", panel=SLURM, metavar="NAME", read=slurm_name)
    gpus: int = option(0, "GPUs of each task.", panel=SLURM, metavar="N", read=from_zero)
    cpus: int = option(4, "CPU cores of each task.", panel=SLURM, metavar="N", read=count)
    mem: str | None = option(
        None, "Memory of each task: 32G.", panel=SLURM, metavar="SIZE", read=slurm_memory
    )
    time: int = option(
        60,
        "For each task: 2h, 02:00:00, 1-12. What is not done then continues in a new task.",
        panel=SLURM,
        metavar="TIME",
        read=minutes,
        shown="1h",
    )
    tasks: int | None = option(
        None,
        "Tasks of the array.",
        panel=SLURM,
        metavar="N",
        read=count,
        shown="one per checkpoint, at most 8",
    )
