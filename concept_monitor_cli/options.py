"""What a user may ask for: the options of each command as plain, frozen data.

The command line fills these in from flags, environment and file; a script may do so by hand. A field has the
name of the option (`--top-concepts` is `top_concepts`) and its default. Nothing heavy is imported here, and
nothing is looked up on disk: a value is only checked for its form.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from concept_monitor_cli.catalogue import default_detectors
from concept_monitor_cli.errors import InputError

Precision = Literal["fp32", "bf16", "fp16"]
Similarity = Literal["cos", "cos-cubed", "rank-reorder", "wpmi", "soft-wpmi"]
Pooling = Literal["auto", "mean", "max", "cls", "tokens"]
Null = Literal["shuffled", "untrained"]
IouNormaliser = Literal["category", "mask", "none"]
LabelRule = Literal["supported", "iou"]
PlotFormat = Literal["png", "svg", "pdf"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Method = Literal["umap", "pca"]
# In the order of `evaluation/`, which must not be imported here: it brings torch along.
MeasureName = Literal[
    "labels",
    "contributions",
    "weights",
    "simulation",
    "cutoff",
    "ranges",
    "clarity",
    "groups",
    "sanity",
]
# What the quality of a label may be: as in `evaluation/simulation.py`.
Quality = Literal[
    "showing",
    "correlation",
    "auprc",
    "f1",
    "iou",
    "auc",
    "activation_difference",
    "inverse_auprc",
    "inverse_auc",
]
FactorMode = Literal["shared", "anchored", "free"]
FactorSolver = Literal["hals", "published"]
FactorRows = Literal["pooled", "positions"]
Kept = Literal["dynamics", "factors"]
Source = Literal["flag", "environment", "file", "default"]
Triple = tuple[float, float, float]

SIMILARITIES: tuple[str, ...] = get_args(Similarity)


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of the checkpoints: `2/8` is the second of eight.

    Attributes:
        index: from 1 to `count`.
        count: number of shares.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/8`.

        Raises:
            InputError: not of that form, or outside 1..count.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.strip().isdecimal() and count.strip().isdecimal()):
            raise InputError(f"{text!r} is not a share", where="--shard", hint="write it as 2/8")
        shard = cls(int(index), int(count))
        if not 1 <= shard.index <= shard.count:
            raise InputError(
                f"there is no share {text!r}",
                where="--shard",
                hint=f"count from 1/{count} to {count}/{count}",
            )
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class EpochFilter:
    """Which epochs of a run to take: `0,5,10`, `0:30:5` (0, 5, ..., 30), `:10`, `20:`, `first`, `last`.

    Epochs are names, not positions, so a range includes both its ends.

    Attributes:
        parts: single epochs, `(start, stop, step)` ranges with `None` for an open end, `first` or `last`.
    """

    parts: tuple[int | str | tuple[int | None, int | None, int], ...]

    @classmethod
    def parse(cls, text: str) -> EpochFilter:
        """Read the text of `--epochs`.

        Raises:
            InputError: a part that is neither a number, a range, `first` nor `last`.
        """
        parts = tuple(cls._part(part.strip(), text) for part in text.split(",") if part.strip())
        if not parts:
            raise cls._error(text, text)
        return cls(parts)

    @staticmethod
    def _error(part: str, text: str) -> InputError:
        where = "--epochs" if part == text else f"--epochs {text}"
        return InputError(
            f"{part!r} names no epochs", where=where, hint="write 0,5,10 or 0:30:5 or first,last or 20:"
        )

    @classmethod
    def _part(cls, part: str, text: str) -> int | str | tuple[int | None, int | None, int]:
        if part in ("first", "last"):
            return part
        numbers = part.split(":")
        if not all(number.isdecimal() or (number == "" and len(numbers) > 1) for number in numbers):
            raise cls._error(part, text)
        if len(numbers) == 1:
            return int(part)
        if len(numbers) > 3:
            raise cls._error(part, text)
        start, stop = (int(number) if number else None for number in numbers[:2])
        step = int(numbers[2]) if len(numbers) == 3 and numbers[2] else 1
        if step < 1:
            raise cls._error(part, text)
        return start, stop, step

    def select(self, available: Iterable[int]) -> tuple[int, ...]:
        """The epochs of `available` that are asked for, ascending.

        Raises:
            InputError: an epoch named by itself is not available, or nothing is left.
        """
        epochs = sorted(set(available))
        chosen: set[int] = set()
        for part in self.parts:
            if isinstance(part, tuple):
                start, stop, step = part
                # Steps count from the start that was given, else from the first epoch there is.
                start = start if start is not None else (epochs[0] if epochs else 0)
                chosen.update(
                    epoch
                    for epoch in epochs
                    if epoch >= start and (stop is None or epoch <= stop) and (epoch - start) % step == 0
                )
            elif isinstance(part, str):
                chosen.update(epochs[:1] if part == "first" else epochs[-1:])
            elif part in epochs:
                chosen.add(part)
            else:
                near = sorted(epochs, key=lambda epoch: (abs(epoch - part), epoch))[:5]
                raise InputError(
                    f"there is no epoch {part}",
                    where="--epochs",
                    hint=f"the nearest are {', '.join(map(str, sorted(near)))}" if near else None,
                )
        if not chosen:
            span = f"there are {epochs[0]} to {epochs[-1]}" if epochs else "there are no epochs at all"
            raise InputError("no epoch is left", where=f"--epochs {self}", hint=span)
        return tuple(sorted(chosen))

    def __str__(self) -> str:
        def show(part: int | str | tuple[int | None, int | None, int]) -> str:
            if not isinstance(part, tuple):
                return str(part)
            start, stop, step = ("" if number is None else str(number) for number in part)
            return f"{start}:{stop}" + (f":{step}" if step != "1" else "")

        return ",".join(show(part) for part in self.parts)


CHANNELS = "channels"
BasisKind = Literal["random", "pca", "nmf", "saved"]


@dataclass(frozen=True)
class BasisSpec:
    """What counts as a unit, where it is not the channels: `random:R[:seed]`, `pca:R`, `nmf:R`, `saved:FILE`.

    Attributes:
        text: as it was written.
        kind: how it is made.
        size: `R`; `None` where a file says.
        seed: of random directions.
        file: of a saved one.
    """

    text: str
    kind: BasisKind
    size: int | None = None
    seed: int = 0
    file: Path | None = None

    @classmethod
    def parse(cls, text: str) -> BasisSpec | None:
        """Read one value of `--basis`; `None` for the channels.

        Raises:
            InputError: it is no basis.
        """
        text = text.strip()
        kind, _, rest = text.partition(":")
        if text == CHANNELS:
            return None
        if kind == "saved" and rest:
            return cls(text, "saved", file=Path(rest).expanduser())
        if kind in ("pca", "nmf") and rest.isdecimal() and int(rest) > 0:
            return cls(text, "pca" if kind == "pca" else "nmf", int(rest))
        size, _, seed = rest.partition(":")
        if kind == "random" and size.isdecimal() and int(size) > 0 and (seed.isdecimal() or not seed):
            return cls(text, "random", int(size), int(seed or 0))
        raise InputError(
            f"{text!r} is no basis",
            where="--basis",
            hint="write channels, random:R[:seed], pca:R, nmf:R or saved:FILE",
        )

    @property
    def name(self) -> str:
        """What stands behind the `@` of a layer in tables and file names."""
        if self.file is not None:
            return f"saved-{re.sub(r'[^A-Za-z0-9_.-]+', '-', self.file.stem)}"
        return f"{self.kind}{self.size}" + (f"s{self.seed}" if self.seed else "")

    @property
    def fitted(self) -> bool:
        """Whether it is made of a layer's activations."""
        return self.kind in ("pca", "nmf")


def basis_name(layer: str, spec: BasisSpec) -> str:
    """The name of a layer in a basis: `layer4@pca8`."""
    return f"{layer}@{spec.name}"


def split_name(name: str) -> tuple[str, str]:
    """Layer and basis of a name in a table; the basis is `channels` where the name has none."""
    layer, _, basis = name.partition("@")
    return layer, basis or CHANNELS


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What every working command understands.

    Attributes:
        out: the folder of the run. `dissect` writes it, the other commands read it.
        device: `auto` (CUDA, else Apple's MPS, else CPU), `cpu`, `cuda`, `cuda:1` or `mps`.
        precision: of the forward passes; scores are computed in fp32 always.
        batch_size: images per forward pass.
        workers: processes or threads that decode images; `None` for one per usable core.
        cache_dir: the store; `None` for the user's cache folder.
        seed: of every random choice.
        dry_run: say what would be done, and do nothing.
        sources: where each option's value came from, e.g. `{"layer": "flag"}`; for `run.json`.
    """

    out: Path = Path("cmon-out")
    device: str = "auto"
    precision: Precision = "fp32"
    batch_size: int = 64
    workers: int | None = None
    cache_dir: Path | None = None
    seed: int = 0
    dry_run: bool = False
    sources: Mapping[str, Source] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """The folder of the store: `cache_dir`, else the user's cache folder."""
        return self.cache_dir if self.cache_dir is not None else default_cache_dir()

    def as_dict(self) -> dict[str, Any]:
        """The options as plain JSON values, without `sources`, for `run.json`."""
        return {
            item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.name != "sources"
        }


@dataclass(frozen=True, kw_only=True)
class DissectOptions(CommonOptions):
    """The options of `cmon dissect`.

    Attributes:
        checkpoints: folders, files or globs, at least one.
        layers: names as in `model.named_modules()`, at least one. (The option is `--layer`.)
        bases: what counts as a unit: `channels`, `random:R[:seed]`, `pca:R`, `nmf:R`, `saved:FILE`. (The
            option is `--basis`.)
        detectors: which detectors to run. (The option is `--detector`.)
        overwrite: start the run in `out` anew instead of adding to it.
        epochs: take only these epochs; `None` for all.
        shard: this process's share of the checkpoints; `None` for all, or what SLURM says.
        order: of the checkpoints: `auto`; `name` for that of their names, counted from 0; or a pattern of
            names with `{epoch}` where the epoch stands.
        series: which of several series of checkpoints to take, by its name, a pattern or a part of it.

        model: the architecture's name, `package.module:factory` or `file.py:factory`; `None` to recognise it.
        input_size: side in pixels of the square the network sees; `None` for what its config says.
        crop: side of the centre crop as a fraction of the resized image, e.g. 0.875 (256 to 224).
        mean: per channel, in units of 0..1.
        std: per channel, in units of 0..1.
        interpolation: Pillow's filter for resizing.
        pooling: from a map to a number; `auto` is the mean for maps and what the network's head reads of
            tokens.
        trust_pickle: load checkpoints that need arbitrary code to run. Only for files of your own.
        prefix: take the network whose weights' names begin so; `None` to look for one.
        weights_key: take the state dict under this name of a checkpoint; `None` to look for one.
        compile: `torch.compile` the network.

        probe: probing images in one of their forms; `None` for `builtin`.
        probe_limit: at most so many images, drawn by their content with `seed`.
        grey_range: of images with more than 8 bits, the grey that is shown black and the one that is shown
            white; `None`: the set's own range.
        groups: images that count as one: `parent` for those of one folder, or a CSV file with the columns
            `image` and `group`; `None` to find copies.
        concepts: concept set in one of its forms; `None` for the default that belongs to the probe.
        encoder: image-text encoder; `None` for the default that belongs to the probe.
        encoder_weights: a local checkpoint for `encoder`.
        encoder_config: open_clip's JSON config for `encoder_weights`.
        templates: prompts with one `{}` each; none means bare words. (The option is `--template`.)

        similarity: of activations and concepts.
        top_k: images of a unit that similarities of ranks look at; `None` for what suits their number.
        stability: draw the images again to say how sure the concepts are.
        top_concepts: rows per unit in the tables.
        pairs: also score pairs of this many of a unit's best concepts; 0 for none.
        save_scores: also write the units x concepts scores.
        null: what a label must beat: chance (`shuffled`) or an untrained network (`untrained`).
        fdr: share of false discoveries allowed among the units called interpretable.
        iou_normaliser: how a unit's pixels are counted; `None` for what the detector's paper has.
        label_rule: which label of the masks a unit gets, and is tested for: the one with the highest IoU that
            does not hang on a single image (`supported`), or the one with the highest IoU (`iou`).
        length: most concepts in a formula.
        beam: formulas kept at each length of a formula.
        floors: also name the units of the same network with random weights, once for all checkpoints: what
            spread and drift are compared with.
        plot_formats: file types of the plots. (The option is `--plot-format`.)
    """

    checkpoints: tuple[str, ...]
    layers: tuple[str, ...]
    bases: tuple[str, ...] = (CHANNELS,)
    detectors: tuple[str, ...] = field(default_factory=default_detectors)
    overwrite: bool = False
    epochs: EpochFilter | None = None
    shard: Shard | None = None
    order: str = "auto"
    series: str | None = None

    model: str | None = None
    input_size: int | None = None
    crop: float | None = None
    mean: Triple | None = None
    std: Triple | None = None
    interpolation: Interpolation | None = None
    pooling: Pooling = "auto"
    trust_pickle: bool = False
    prefix: str | None = None
    weights_key: str | None = None
    compile: bool = False

    probe: str | None = None
    probe_limit: int | None = None
    groups: str | None = None
    grey_range: tuple[float, float] | None = None
    concepts: str | None = None
    encoder: str | None = None
    encoder_weights: Path | None = None
    encoder_config: Path | None = None
    templates: tuple[str, ...] = ()

    similarity: Similarity = "soft-wpmi"
    top_k: int | None = None
    stability: bool = True
    top_concepts: int = 5
    pairs: int = 0
    save_scores: bool = False
    null: Null = "shuffled"
    fdr: float = 0.05
    iou_normaliser: IouNormaliser | None = None
    label_rule: LabelRule = "supported"
    length: int = 3
    beam: int = 10
    floors: bool = True
    plot_formats: tuple[PlotFormat, ...] = ("png",)

    @property
    def loading(self) -> dict[str, Any]:
        """How checkpoints are read: the arguments of `load_checkpoint`."""
        return {
            "trust_pickle": self.trust_pickle,
            "model": self.model,
            "prefix": self.prefix,
            "weights_key": self.weights_key,
        }

    @property
    def layers_in_tables(self) -> tuple[str, ...]:
        """The names of the layers in the tables: each in each of the bases."""
        specs = [BasisSpec.parse(basis) for basis in self.bases]
        return tuple(
            layer if spec is None else basis_name(layer, spec) for layer in self.layers for spec in specs
        )


@dataclass(frozen=True, kw_only=True)
class WatchOptions(DissectOptions):
    """The options of `cmon watch`: those of `dissect`, when to look and to stop, and what to warn of.

    Attributes:
        interval: seconds between two looks at the folder.
        idle: stop after so many seconds without a new checkpoint; `None` never.
        until_epoch: stop once this epoch, or a later one, is done; `None` never.
        effective_drop: units clump: their effective number has fallen below its highest by this share.
        redundant_rise: units collapse: the share of redundant ones is this much above its lowest.
        dead_rise: units die: their share is this much above its lowest.
        patience: so many epochs one after the other with fewer interpretable units.
        on_alert: a command to run for each warning; `None` for none.
        keep: commands whose tables are kept current, too: `dynamics`, and `factors` as anchored ones.
    """

    interval: float = 10.0
    idle: float | None = None
    until_epoch: int | None = None
    effective_drop: float = 0.15
    redundant_rise: float = 0.2
    dead_rise: float = 0.05
    patience: int = 3
    on_alert: str | None = None
    keep: tuple[Kept, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(DissectOptions):
    """The options of `cmon submit dissect`: those of `dissect`, and what to ask SLURM for.

    Attributes:
        partition: SLURM's partition; `None` for the cluster's own choice.
        account: what the time is charged to; `None` for the user's own.
        gpus: of each task.
        cpus: of each task.
        mem: memory of each task, as SLURM writes it; `None` for the cluster's own.
        time: minutes for each task.
        tasks: of the array; `None` for one per checkpoint, at most 8.
    """

    partition: str | None = None
    account: str | None = None
    gpus: int = 0
    cpus: int = 4
    mem: str | None = None
    time: int = 60
    tasks: int | None = None


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(CommonOptions):
    """The options of `cmon embed`.

    Attributes:
        anchors: words, or names of `.txt` files with one word a line, as they were given.
        units: the units whose way is followed in the plots.
        layers: which layers of the run; none means all of them. (The option is `--layer`.)
        detector: whose concepts to embed; `None` for the run's first.
        epochs: take only these epochs; `None` for all.
        method: from the encoder's dimensions to two.
        neighbors: UMAP's `n_neighbors`.
        min_dist: UMAP's `min_dist`.
        plot_formats: file types of the plots. (The option is `--plot-format`.)
    """

    anchors: tuple[str, ...] = ()
    units: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()
    detector: str | None = None
    epochs: EpochFilter | None = None
    method: Method = "umap"
    neighbors: int = 15
    min_dist: float = 0.1
    plot_formats: tuple[PlotFormat, ...] = ("png",)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(CommonOptions):
    """What every command that reads a finished run understands.

    Attributes:
        layers: which layers; none means all of the run. (The option is `--layer`.)
        detector: whose concepts; `None` for all of the run.
        epochs: take only these epochs; `None` for all.
        plot_formats: file types of the plots. (The option is `--plot-format`.)
    """

    layers: tuple[str, ...] = ()
    detector: str | None = None
    epochs: EpochFilter | None = None
    plot_formats: tuple[PlotFormat, ...] = ("png",)


@dataclass(frozen=True, kw_only=True)
class StatsOptions(ReadingOptions):
    """The options of `cmon stats`.

    Attributes:
        against: another run, drawn beside this one; `None` for this one alone.
    """

    against: Path | None = None


@dataclass(frozen=True, kw_only=True)
class UnitsOptions(ReadingOptions):
    """The options of `cmon units`.

    Attributes:
        units: the units to draw over the epochs; none means the most interpretable ones of every epoch.
        classes: words: how many units have one of them as their concept?
        top: how many units, and images of each, a picture shows.
        resamples: how often the probing images are drawn again for `confident_changes`; 0 leaves it out.
    """

    units: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    top: int = 5
    resamples: int = 100


@dataclass(frozen=True, kw_only=True)
class RetentionOptions(ReadingOptions):
    """The options of `cmon retention`.

    Attributes:
        runs: runs whose checkpoints are the stages of a pruning, a curve each; none means the run in `out`.
        by_run: each run is one stage, at its last epoch, instead.
    """

    runs: tuple[Path, ...] = ()
    by_run: bool = False


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ReadingOptions):
    """The options of `cmon compare`.

    Attributes:
        run_a: one run.
        run_b: the other.
        out: where the tables and plots of the comparison go.
        classes: words: how many units of each run have one of them as their concept?
    """

    run_a: Path
    run_b: Path
    out: Path = Path("cmon-compare")
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReportOptions(ReadingOptions):
    """The options of `cmon report`.

    Attributes:
        units: units that are followed from the start, and whose images come first.
        images: favourite images per unit and epoch; 0 for a page without images.
        image_megabytes: at most so much of the page is images.
        tensorboard: also write scalars and a projector here; `None` for none.
        csv: also write the tables as CSV here; `None` for none.
        parquet: also write the tables as Parquet here; `None` for none.
    """

    units: tuple[int, ...] = ()
    images: int = 5
    image_megabytes: float = 6.0
    tensorboard: Path | None = None
    csv: Path | None = None
    parquet: Path | None = None


@dataclass(frozen=True, kw_only=True)
class DynamicsOptions(ReadingOptions):
    """The options of `cmon dynamics`.

    Attributes:
        runs: the runs, with the same probing images; none means the one in `out`.
        threshold: a layer is near its end from the epoch on at which its CKA to the last one stays above it.
        block: images in a block of Gram matrices.
    """

    runs: tuple[Path, ...] = ()
    threshold: float = 0.9
    block: int = 64


@dataclass(frozen=True, kw_only=True)
class FactorsOptions(ReadingOptions):
    """The options of `cmon factors`.

    Attributes:
        run: the run; `None` for the one in `out`.
        rank: how many factors; `auto` for as many as random starts agree on.
        mode: `shared`: one set of factors of the images for all epochs; `anchored`: those of one epoch, held;
            `free`: each epoch its own, matched to the next epoch's.
        reference: the epoch of `anchored`; `None` for the last one.
        warm: in `free`, an epoch's fit begins at that of the next one.
        solver: `hals`, or the paper's iteration.
        balance: every layer and colour channel counts alike.
        group_sparse: factors that are exactly zero in classes of images they have no part in.
        images: what of an image is factorised: `pooled` activations, a row for each unit; or `positions`, one
            for each position of each unit, as published: the networks are run for them.
        pixels: the colour channels of the images are factorised, too.
        rectify: negative activations count as 0.
        superclasses: a CSV file with the columns `class` and `superclass`.
        classifier: the recorded layer whose units are the classes; `None` to find it.
        starts: fits from random starts that stability is measured by.
        neighbours: images around each image.
        top: images of each factor, and units in each layer, to list.
        lambda_pixels: weight of the squared loadings of pixels.
        lambda_units: weight of the squared loadings of units.
        lambda_images: weight of the squared strengths in images; with `group_sparse`, of the group penalty.
        model: the code of the network once more, where the run needed some and `positions` must be recorded.
        trust_pickle: load checkpoints that need arbitrary code to run. Only for files of your own.
    """

    run: Path | None = None
    rank: int | Literal["auto"] = 20
    mode: FactorMode = "shared"
    reference: int | None = None
    warm: bool = False
    solver: FactorSolver = "hals"
    balance: bool = True
    group_sparse: bool = False
    images: FactorRows = "pooled"
    pixels: bool = True
    rectify: bool = False
    superclasses: Path | None = None
    classifier: str | None = None
    starts: int = 5
    neighbours: int = 30
    top: int = 20
    lambda_pixels: float = 0.0
    lambda_units: float = 0.0
    lambda_images: float = 0.0
    model: str | None = None
    trust_pickle: bool = False

    @property
    def root(self) -> Path:
        """The folder of the run."""
        return self.out if self.run is None else self.run


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(ReadingOptions):
    """The options of `cmon evaluate`.

    Attributes:
        run: the run; `None` for the one in `out`.
        measures: which measures; none means those that fit. (The option is `--measure`.)
        similarities: none means all five for the classifier's labels and the run's own for
            everything else. (The option is `--similarity`.)
        class_names: of the network's classes: a text file, `cifar10`, `cifar100`, `imagenet` or `folders`;
            `None` to find them in the checkpoint or the probing images.
        classifier: the layer whose units are the classes; `None` for the last linear one.
        sentence_model: of the sentence-transformers library, a folder or a name; `None` for all-mpnet-base-v2
            where this machine has it.
        held_out: other images to judge labels by, in one of the forms of `--probe`; `None` for half of the
            run's.
        active_share: a unit counts as active on so large a share of the images.
        quality: the mean quality that is wanted of labels above a cutoff.
        quality_metric: what quality is.
        units: whose images to show; none means those with the most certain labels, or the clearest groups.
        top_images: how many top images of a unit are asked what they have in common.
        grid: put similarities, concept sets, poolings and encoders side by side.
        grid_concepts: concept sets besides the run's own.
        grid_poolings: poolings besides the run's own. (The option is `--grid-pooling`.)
        grid_encoders: encoders besides the run's own, each `NAME[,WEIGHTS[,CONFIG]]`. (The option is
            `--grid-encoder`.)
        model: the code of the network once more, where the run needed some and images must be shown to it.
        trust_pickle: load checkpoints that need arbitrary code to run. Only for files of your own.
    """

    run: Path | None = None
    measures: tuple[str, ...] = ()
    similarities: tuple[Similarity, ...] = ()
    class_names: str | None = None
    classifier: str | None = None
    sentence_model: str | None = None
    held_out: str | None = None
    active_share: float = 0.05
    quality: float = 0.75
    quality_metric: Quality = "showing"
    units: tuple[int, ...] = ()
    top_images: int = 20
    grid: bool = False
    grid_concepts: tuple[str, ...] = ()
    grid_poolings: tuple[Pooling, ...] = ()
    grid_encoders: tuple[str, ...] = ()
    model: str | None = None
    trust_pickle: bool = False

    @property
    def root(self) -> Path:
        """The folder of the run."""
        return self.out if self.run is None else self.run


def default_cache_dir() -> Path:
    """The user's cache folder of cmon, e.g. `~/.cache/cmon`."""
    import platformdirs

    return platformdirs.user_cache_path("cmon", appauthor=False)


def nearest(name: str, names: Iterable[str], *, count: int = 3) -> list[str]:
    """The names most like a mistyped one, best first; none where none is alike."""
    return difflib.get_close_matches(name, list(names), n=count, cutoff=0.6)


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)
