"""The options of `cmon evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from concept_monitor_cli.options.common import (
    NetworksAgainOptions,
    OneRunOptions,
    class_names_option,
    epochs_option,
)
from concept_monitor_cli.options.declare import GRID, IMAGES, PART, PEOPLE, TRUTH, option
from concept_monitor_cli.options.kinds import EpochFilter, MeasureName, Pooling, Quality, Similarity
from concept_monitor_cli.options.values import count, number, share, spec, unit_list


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(NetworksAgainOptions, OneRunOptions):
    """The options of `cmon evaluate`."""

    without: ClassVar[tuple[str, ...]] = ("precision", "dry_run")

    measures: tuple[MeasureName, ...] = option(
        (),
        "Only these measures: labels, contributions, weights, simulation, cutoff, ranges, clarity, groups, "
        "sanity, cosy.",
        panel=PART,
        name="measure",
        flags=("--measure", "-m"),
        metavar="NAME",
        shown="those that fit",
    )
    similarities: tuple[Similarity, ...] = option(
        (),
        "Labels made with these similarities of activations and concepts.",
        panel=PART,
        name="similarity",
        flags=("--similarity", "-s"),
        metavar="NAME",
        shown="all for the classifier, the run's own elsewhere",
    )
    epochs: EpochFilter | None = epochs_option(PART, "last", "These")
    class_names: str | None = class_names_option()
    classifier: str | None = option(
        None,
        "The layer whose units are the classes.",
        panel=TRUTH,
        metavar="LAYER",
        shown="the last linear layer",
    )
    sentence_model: str | None = option(
        None,
        "A sentence-transformers model, a folder or a name, for mpnet cos.",
        panel=TRUTH,
        metavar="MODEL",
        read=spec,
        shown="all-mpnet-base-v2 where it is here",
    )
    held_out: str | None = option(
        None,
        "Images to judge by that no label has seen, in one of the forms of --probe.",
        panel=TRUTH,
        metavar="PROBE",
        read=spec,
        shown="half of the run's",
    )
    generated: str | None = option(
        None,
        "A folder with a folder of images for each concept, made by an image generator (cosy).",
        panel=TRUTH,
        metavar="DIR",
        read=spec,
    )
    export_ratings: int | None = option(
        None,
        "Only write a form in which people rate the labels of N units of each layer: RUN/ratings/form.html.",
        panel=PEOPLE,
        metavar="N",
        read=count,
    )
    import_ratings: tuple[str, ...] = option(
        (),
        "Only read what people answered: the files that the form saved, a comma list.",
        panel=PEOPLE,
        metavar="FILES",
    )
    active_share: float = option(
        0.05,
        "A unit is active on so large a share of the images (F1, IoU, AUPRC, AUC).",
        panel=IMAGES,
        metavar="SHARE",
        read=share,
    )
    quality: float = option(
        0.75,
        "The mean quality that labels above a cutoff should have.",
        panel=IMAGES,
        metavar="NUMBER",
        read=number(float),
    )
    quality_metric: Quality = option(
        "showing",
        "What quality is: showing (the share of the ten top images that show the concept), or a metric of "
        "simulation.",
        panel=IMAGES,
        metavar="NAME",
    )
    units: tuple[int, ...] = option(
        (),
        "Units whose images to show: 256,479 or 10-19.",
        panel=IMAGES,
        flags=("--units", "--unit", "-u"),
        metavar="LIST",
        read=unit_list,
        shown="the most certain, or those with the clearest groups",
    )
    top_images: int = option(
        20,
        "So many top images of a unit are asked what they have in common.",
        panel=IMAGES,
        metavar="N",
        read=count,
    )
    grid: bool = option(
        False, "Similarities, concept sets, poolings and encoders side by side, in one table.", panel=GRID
    )
    grid_concepts: tuple[str, ...] = option(
        (),
        "Concept sets besides the run's own, in the forms of --concepts.",
        panel=GRID,
        metavar="CONCEPTS",
        shown="the run's",
    )
    grid_poolings: tuple[Pooling, ...] = option(
        (),
        "Poolings besides the run's own. Each needs a forward pass, once.",
        panel=GRID,
        name="grid_pooling",
        metavar="NAME",
        shown="the run's",
    )
    grid_encoders: tuple[str, ...] = option(
        (),
        "Encoders besides the run's own, as --encoder, --encoder-weights and --encoder-config have them.",
        panel=GRID,
        name="grid_encoder",
        metavar="NAME[,WEIGHTS[,CONFIG]]",
        separator=";",
        shown="the run's",
    )
