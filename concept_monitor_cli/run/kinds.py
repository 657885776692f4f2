"""What the tables of a run hold, and where people see it: the five kinds of findings, and judgements of them.

Every table of `TABLES` has its line here; a detector's own tables say it in their schemas
(`TableSchema.of_units`). The page reads what has a part of it (`RunFolder.on_page`), and tests hold that the
figures and the parts are there and that docs/outputs.md says the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: `names`: concepts of units. `texts`: sentences, and what is found by a text. `effects`: numbers per unit,
#: layer or class. `pictures`: of which each row is one. `relations`: pairs of units, layers, epochs or runs.
#: `judgements`: how good findings are.
Kind = Literal["names", "texts", "effects", "pictures", "relations", "judgements"]
KINDS: tuple[Kind, ...] = ("names", "texts", "effects", "pictures", "relations", "judgements")

#: The parts of the page, as its data are called in `report/page/contents.py`.
Part = Literal[
    "findings", "series", "anchors", "dynamics", "factors", "uses", "circuits", "ranges", "atlas", "pictures"
]


@dataclass(frozen=True)
class Shown:
    """What one table holds, and where it is shown.

    Attributes:
        kind: what it holds.
        figure: the figure that a command draws of it by default, `module.function` in `report/`; empty for
            none.
        page: the part of the page that shows it; empty for none.
        why_not: why it has no figure, or no place on the page.
    """

    kind: Kind
    figure: str = ""
    page: Part | Literal[""] = ""
    why_not: str = ""


#: Why a table has no figure, or no place on the page.
BEHIND = "behind the numbers of another table"
READ = "few numbers, read as they are printed"
_OF_RUNS = "of several runs, and a page is of one"
_OF_FILES = "of files that stand beside the page"
_OWN_PAGE = "shown on pages of their own, one for each image"
_OF_WORDS = "asked anew for every text"
_JUDGED = "printed and drawn by the command that asks; a page shows what was found, not how good it is"
_MORE = "its command prints and draws more than a page has room for"

SHOWN: dict[str, Shown] = {
    "concepts": Shown("names", "unit_figures.unit_over_epochs", "series"),
    "units": Shown("names", "unit_figures.class_table", "series"),
    "changes": Shown("names", "", "series", "marks in the lives of units"),
    "statistics": Shown("names", "statistics_figures.categories_by_layer", "series"),
    "embedding": Shown("names", "embedding_figures.embedding_panels", "series"),
    "anchors": Shown("names", "embedding_figures.trajectories", "anchors"),
    "embedding-floors": Shown("names", "", "series", BEHIND),
    "agreement": Shown("names", "", "", READ),
    "pruning": Shown("names", "statistics_figures.interpretable_against_sparsity", "", _OF_RUNS),
    "retention": Shown("names", "statistics_figures.retention_against_percent", "", _OF_RUNS),
    "findings": Shown("texts", "", "findings", "sentences"),
    "search": Shown("texts", "unit_figures.top_units_over_epochs", "", _OF_WORDS),
    "text-matches": Shown("texts", "", "", _OF_WORDS),
    "factors": Shown("effects", "factor_figures.strengths", "factors"),
    "factor-classes": Shown("effects", "factor_figures.class_table", "factors"),
    "factor-units": Shown("effects", "", "", BEHIND),
    "factor-spectrum": Shown("effects", "factor_figures.spectra", "", _MORE),
    "factor-residual": Shown("effects", "", "", READ),
    "factor-rank": Shown("effects", "", "", READ),
    "dimension": Shown("effects", "dynamics_figures.curves", "", _MORE),
    "vectors": Shown("effects", "vector_figures.decoding", "", _MORE),
    "effects": Shown("effects", "vector_figures.effects", "", _MORE),
    "unit-classes": Shown("effects", "", "uses", "sentences about units"),
    "evolutions": Shown("effects", "evolution_figures.strongest_units", "uses"),
    "evolution-classes": Shown("effects", "evolution_figures.origins", "", _MORE),
    "evolution-parts": Shown("effects", "evolution_figures.parts_set_back", "", _MORE),
    "diversity": Shown("effects", "diversity_figures.diversity_points", "", _OF_RUNS),
    "diversity-tests": Shown("effects", "", "", BEHIND),
    "ablation": Shown("effects", "ablation_figures.losses", "uses"),
    "spurious": Shown("effects", "ablation_figures.gap_bars", "", _MORE),
    "failures": Shown("effects", "failure_figures.separating_units", "", _MORE),
    "tuning": Shown("effects", "", "", BEHIND),
    "tuning-curves": Shown("effects", "tuning_figures.tuning_curves", "", _MORE),
    "tuning-layers": Shown("effects", "", "", READ),
    "explanations": Shown("effects", "", "", _OWN_PAGE),
    "explanation-places": Shown("effects", "", "", _OWN_PAGE),
    "factor-images": Shown("pictures", "factor_figures.cards", "factors"),
    "vector-clusters": Shown("pictures", "vector_figures.part_examples", "", _OF_FILES),
    "pictures": Shown("pictures", "picture_figures.contact_sheet", "pictures"),
    "atlas": Shown("pictures", "atlas_figures.atlas_map", "atlas"),
    "explanation-grid": Shown("pictures", "explanation_figures.activation_grid", "", _OWN_PAGE),
    "atlas-samples": Shown("pictures", "", "", BEHIND),
    "atlas-epochs": Shown("judgements", "", "atlas", READ),
    "attributions": Shown("pictures", "attribution_figures.strips", "", _OF_FILES),
    "similarity": Shown("relations", "dynamics_figures.matrix", "dynamics"),
    "self_similarity": Shown("relations", "", "", BEHIND),
    "factor-similarity": Shown("relations", "factor_figures.similarity_matrices", "", _MORE),
    "factor-neighbours": Shown("relations", "factor_figures.neighbour_bars", "", _MORE),
    "circuit": Shown("relations", "circuit_figures.unit_circuits", "circuits"),
    "circuit-layers": Shown("relations", "", "", READ),
    "circuit-concepts": Shown("relations", "circuit_figures.concept_edges", "", _MORE),
    "circuit-unions": Shown("relations", "", "", READ),
    "comparison": Shown("relations", "statistics_figures.categories_side_by_side", "", _OF_RUNS),
    "matches": Shown("relations", "unit_figures.class_examples", "", _OF_RUNS),
    "universality": Shown("relations", "universality_figures.universality_figure", "", _OF_RUNS),
    "sanity": Shown("judgements", "", "", _JUDGED),
    "faithfulness": Shown("judgements", "", "", _JUDGED),
    "pointing": Shown("judgements", "", "", READ),
    "ratings-key": Shown("judgements", "", "", BEHIND),
    "ratings": Shown("judgements", "", "", READ),
    "ratings-units": Shown("judgements", "", "", BEHIND),
    "evaluation": Shown("judgements", "", "", READ),
    "evaluation-labels": Shown("judgements", "evaluation.label_quality", "", _JUDGED),
    "evaluation-contributions": Shown("judgements", "evaluation.described_classes", "", _JUDGED),
    "evaluation-weights": Shown("judgements", "evaluation.weights_and_concepts", "", _JUDGED),
    "evaluation-simulation": Shown("judgements", "", "", BEHIND),
    "evaluation-cutoff": Shown("judgements", "evaluation_units.score_against_quality", "", _JUDGED),
    "evaluation-ranges": Shown("judgements", "", "", BEHIND),
    "evaluation-range-images": Shown("judgements", "evaluation_units.wider_ranges", "", _JUDGED),
    "evaluation-clarity": Shown("judgements", "", "", BEHIND),
    "evaluation-cosy": Shown("judgements", "", "", BEHIND),
    "evaluation-groups": Shown("judgements", "", "", BEHIND),
    "evaluation-group-labels": Shown("judgements", "", "", BEHIND),
    "evaluation-group-images": Shown("judgements", "evaluation_units.image_groups", "", _JUDGED),
    "evaluation-sanity": Shown("judgements", "evaluation_units.sanity_of_measures", "", _JUDGED),
    "evaluation-grid": Shown("judgements", "evaluation.grid_of_settings", "", _JUDGED),
}


#: A detector's own table that says nothing else.
ORDINARY = Shown("names", why_not=BEHIND)


def on_page(part: Part) -> tuple[str, ...]:
    """The tables that a part of the page shows."""
    return tuple(name for name, shown in SHOWN.items() if shown.page == part)
