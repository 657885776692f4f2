"""What a detector is: what to record, how to score it, how to read the score.

A new detector is one file in `lenses/names/`, with a subclass of `Detector` that has a `name`. Everything
that it concludes comes out as `Findings`, and what is true of it in general as `Traits`, so tables, plots and
statistics know no detector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.run import TableSchema
from concept_monitor_cli.run.traits import Candidates, Evidence, LabelKind, Traits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from concept_monitor_cli.lenses.halves import Halves
    from concept_monitor_cli.models.layers import LayerInfo
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.probe import ProbeSet
    from concept_monitor_cli.record.requests import Recording
    from concept_monitor_cli.store import Entry, Writer
    from concept_monitor_cli.study.context import Context

LIVE, DEAD, SPARSE = "live", "dead", "sparse"

# Columns that a detector may leave out, and their types.
_OPTIONAL: dict[str, type] = {"sparse": bool, "effect": float, "stability": float, "concept_set": object}


@dataclass(frozen=True)
class Findings:
    """What a detector says about the `C` units of one layer of one checkpoint.

    Attributes:
        concepts: `C x k`, the best concepts, best first; `""` where there are fewer than `k`.
        categories: `C x k`, the category of each; `""` where unknown.
        scores: `C x k`, float32; NaN where there is no concept. Descending, unless the detector ranks by
            something else, as by a label that is tested before one of a higher score.
        p_values: `C`, float64: how often chance reaches the best score; NaN for dead units.
        interpretable: `C`, whether the best score is more than chance, calibrated over the layer.
        live: `C`; a unit whose activation is the same on every image is dead and has no concept.
        sparse: `C`; a unit that is not dead and fires on too few groups of images to be named. It has no
            concept either, and `live` is false for it.
        effect: `C`, float64: the evidence for the best concept beyond chance, in standard deviations of its
            null; what ranks units whose scores and p-values saturate. NaN where there is no concept.
        stability: `C`, float64: share of bootstrap draws of groups of images in which the best concept stays
            first; NaN where there is no concept, or nothing was drawn.
        concept_set: `C`, the concepts that are first in nine tenths of the draws, best first, joined by `; `;
            `""` where nothing was drawn.
        calibration: numbers for `run.json`: the null, the paper's constant and how many pass each.
        notes: what the user should know, each one sentence.
        matrix: `C x M` scores of every concept, where asked for.
        matrix_concepts: what the columns of `matrix` are, where not the context's concepts.
        more: further tables, name -> column -> values; each has a schema in the detector's `tables`, whose
            columns `epoch`, `checkpoint`, `layer` and `detector` are filled in later.
    """

    concepts: NDArray[np.object_]
    categories: NDArray[np.object_]
    scores: NDArray[np.float32]
    p_values: NDArray[np.float64]
    interpretable: NDArray[np.bool_]
    live: NDArray[np.bool_]
    calibration: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sparse: NDArray[np.bool_] | None = None
    effect: NDArray[np.float64] | None = None
    stability: NDArray[np.float64] | None = None
    concept_set: NDArray[np.object_] | None = None
    matrix: NDArray[np.float32] | None = None
    matrix_concepts: tuple[str, ...] | None = None
    more: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)

    @property
    def state(self) -> NDArray[np.object_]:
        """`C`: `live`, `dead` or `sparse`."""
        sparse = np.zeros_like(self.live) if self.sparse is None else self.sparse
        states: NDArray[np.object_] = np.where(self.live, LIVE, np.where(sparse, SPARSE, DEAD)).astype(object)
        return states

    def rows(self, *, epoch: int, checkpoint: str, layer: str, detector: str) -> dict[str, Any]:
        """The rows of the concept table. A dead or sparse unit has one row, without a concept.

        `effect`, `stability` and `concept_set` stand in the rows of rank 1.
        """
        given = (self.concepts != "") & self.live[:, None]
        given[:, 0] = True
        unit, rank = np.nonzero(given)
        live = self.live[unit]
        rows: dict[str, Any] = {
            "epoch": np.full(len(unit), epoch),
            "checkpoint": [checkpoint] * len(unit),
            "layer": [layer] * len(unit),
            "unit": unit,
            "detector": [detector] * len(unit),
            "rank": rank + 1,
            "concept": np.where(live, self.concepts[unit, rank], ""),
            "category": np.where(live, self.categories[unit, rank], ""),
            "score": np.where(live, self.scores[unit, rank], np.nan),
            "p_value": np.where(live, self.p_values[unit], np.nan),
            "interpretable": self.interpretable[unit] & live,
            "state": self.state[unit],
            "effect": self._of_first("effect", unit, rank),
            "stability": self._of_first("stability", unit, rank),
            "concept_set": self._of_first("concept_set", unit, rank),
        }
        return rows

    def _of_first(self, name: str, unit: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[Any]:
        """A column that only rows of rank 1 of live units have."""
        nothing = "" if name == "concept_set" else np.nan
        values = getattr(self, name)
        if values is None:
            return np.full(len(unit), nothing, dtype=object if name == "concept_set" else np.float64)
        column: NDArray[Any] = np.where((rank == 0) & self.live[unit], values[unit], nothing)
        return column

    def more_rows(
        self, table: str, *, epoch: int, checkpoint: str, layer: str, detector: str
    ) -> dict[str, object]:
        """The rows of one of the further tables."""
        columns = self.more[table]
        count = len(next(iter(columns.values())))
        return {
            "epoch": np.full(count, epoch),
            "checkpoint": [checkpoint] * count,
            "layer": [layer] * count,
            "detector": [detector] * count,
            **columns,
        }

    def save(self, writer: Writer) -> None:
        """Put everything but the score matrix into a store entry."""
        writer.meta.update(calibration=dict(self.calibration), notes=list(self.notes))
        for name in ("concepts", "categories", "scores", "p_values", "interpretable", "live"):
            writer.put(name, getattr(self, name))
        given = [name for name in _OPTIONAL if getattr(self, name) is not None]
        writer.meta["given"] = given
        for name in given:
            writer.put(name, getattr(self, name))
        writer.meta["more"] = {table: list(columns) for table, columns in self.more.items()}
        for table, columns in self.more.items():
            for column, values in columns.items():
                writer.put(f"{table}:{column}", values)

    @classmethod
    def load(cls, entry: Entry) -> Findings:
        """Read what `save` wrote."""
        given: dict[str, Any] = {
            name: entry.read(name).astype(_OPTIONAL[name]) for name in entry.meta["given"]
        }
        return cls(
            **given,
            concepts=entry.read("concepts").astype(object),
            categories=entry.read("categories").astype(object),
            scores=entry.read("scores"),
            p_values=entry.read("p_values"),
            interpretable=entry.read("interpretable").astype(bool),
            live=entry.read("live").astype(bool),
            calibration=entry.meta["calibration"],
            notes=tuple(entry.meta["notes"]),
            more={
                table: {column: entry.read(f"{table}:{column}") for column in columns}
                for table, columns in entry.meta.get("more", {}).items()
            },
        )


class Detector(ABC):
    """Finds the concepts of the units of a layer.

    Attributes:
        name: as in the tables and on the command line.
        summary: one line of help.
        paper: where the method was published.
        labels: what its labels are; see `Traits`.
        evidence: what they are found by; see `Traits`.
        candidates: from what they are taken; see `Traits`.
        needs_encoder: whether it looks at images and words through the image-text encoder.
        uses_encoder: whether it does so where the run has an encoder, and does without elsewhere.
        tables: what it writes beside its concept table: the schema of everything in `Findings.more`.
        default: whether it is taken where no detector is named.
        code: content of a plug-in's file, for keys; empty for the package's own.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    labels: ClassVar[LabelKind] = "concepts"
    evidence: ClassVar[Evidence] = "other"
    candidates: ClassVar[Candidates] = "concepts"
    needs_encoder: bool = False
    uses_encoder: ClassVar[bool] = False
    tables: ClassVar[tuple[TableSchema, ...]] = ()
    default: ClassVar[bool] = False
    code: str = ""

    @classmethod
    def traits(cls) -> Traits:
        """What is true of all its findings."""
        return Traits(cls.labels, cls.evidence, cls.candidates, cls.summary, cls.paper)

    @property
    def relative(self) -> bool:
        """Whether a unit's label depends on the other units of its layer."""
        return False

    @classmethod
    @abstractmethod
    def from_options(cls, options: DissectOptions) -> Detector:
        """The detector as the options ask for it."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Every constant that its findings depend on, as JSON values."""

    @abstractmethod
    def depends_on(self, context: Context) -> dict[str, str]:
        """Digests of what its findings depend on besides the recording and the settings."""

    @abstractmethod
    def recording(self, context: Context) -> Recording:
        """What it needs from the forward pass."""

    def check(self, probe: ProbeSet, layers: Sequence[LayerInfo]) -> None:
        """Refuse at once, before an image is decoded, what cannot work.

        Raises:
            InputError: e.g. masks are needed and the probing set has none.
        """
        return

    def prepare(self, context: Context) -> None:
        """Begin in a thread what takes seconds and needs no recording: it goes beside the forward pass."""
        return

    @abstractmethod
    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """Read a recording.

        Args:
            entry: what its recording left in the store for one layer of one checkpoint.
            context: probing set, concepts and their embeddings.
            untrained: the same recording of the same layer with random weights, several times over; where
                given, a label must beat these instead of chance.
            matrix: also return the scores of all concepts.
        """

    def halves(self, entry: Entry, context: Context) -> Halves | None:
        """What either half of the images says of the units; `None` where the detector cannot be asked.

        Args:
            entry: as for `find`.
            context: as for `find`.
        """
        return None
