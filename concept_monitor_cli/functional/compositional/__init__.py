"""Compositional explanations: the formula of concepts that a unit's mask overlaps best (Mu & Andreas 2020).

Beam search after Mu and Andreas (2020): the best single concepts, then every formula of the beam extended by
`OR c`, `AND c` and `AND NOT c`, and the best formulas kept, shorter ones among them, as in the published
code. After it, the best formula of at most three concepts is proved by tables of pairs and bounds
(`optimal`); the better the beam's formula is, the less is left to look at.

**Cells.** Pixels that carry the same set of labels are alike to every formula. So the probe set is cut once
into cells (`LabelCells`), one per set of labels that occurs, with its number of pixels, and for each unit
with the number of its mask's pixels in each cell. Photos with six categories of labels have about a dozen
cells each, and these repeat from image to image. After the one pass over the pixels that counts them, no
level of the search looks at a pixel again, and every count stays an exact integer.

**Inclusion and exclusion.** With `in(F, c)` the pixels of concept c inside formula F, for all c one product
over F's cells, all extensions of F are known without building them:
`|F AND c| = in(F, c)`, `|F OR c| = |F| + |c| - in(F, c)`, `|F AND NOT c| = |F| - in(F, c)`,
and the same inside the unit's mask.

**Which formulas there are.** A formula names a concept once: with a concept twice it is equal to a shorter
one. Operands of one operator have no order (`A OR B` is `B OR A`; `(A AND NOT B) AND C` is `(A AND C) AND NOT
B`). An extension that adds no pixel to a formula and takes none away says nothing new, as `A OR A` does not,
and a formula that meets no pixel of the unit is none of its explanations; both are left out. Ties go to the
shorter formula, then to the lower `Formula.key`, so that a search repeats exactly.
"""

from concept_monitor_cli.functional.compositional.by_image import CellPixels, CutImages
from concept_monitor_cli.functional.compositional.cells import (
    CellCounter,
    ImageCells,
    LabelCells,
    count_cells,
    label_cells,
)
from concept_monitor_cli.functional.compositional.formulas import OPERATORS, Explanation, Formula, Operator
from concept_monitor_cli.functional.compositional.optimal import LONGEST, PairTables, Proof, ceiling
from concept_monitor_cli.functional.compositional.resampled import formula_group_counts
from concept_monitor_cli.functional.compositional.search import (
    BEAM,
    LENGTH,
    MOST_LOOKS,
    SearchKind,
    SearchResult,
    compositional,
    search_formulas,
    supported_formulas,
)

__all__ = [
    "BEAM",
    "LENGTH",
    "LONGEST",
    "MOST_LOOKS",
    "OPERATORS",
    "CellCounter",
    "CellPixels",
    "CutImages",
    "Explanation",
    "Formula",
    "ImageCells",
    "LabelCells",
    "Operator",
    "PairTables",
    "Proof",
    "SearchKind",
    "SearchResult",
    "ceiling",
    "compositional",
    "count_cells",
    "formula_group_counts",
    "label_cells",
    "search_formulas",
    "supported_formulas",
]
