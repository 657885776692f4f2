"""A finished run, opened for reading, with what it was made from at hand."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.encoders import Encoder, embed_listed, embed_texts, looked_at_once
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.lenses import detector_class, traits_of
from concept_monitor_cli.models.device import resolve_device
from concept_monitor_cli.monitor.confidence import Words
from concept_monitor_cli.monitor.findings import caption
from concept_monitor_cli.monitor.findings.tables import fdr_of
from concept_monitor_cli.monitor.history import History, histories
from concept_monitor_cli.options import ReadingOptions
from concept_monitor_cli.probe import Geometry, ProbeSet, decode_probe
from concept_monitor_cli.probe.groups import COPIES, FINGERPRINT
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import RunFolder, TableRecord
from concept_monitor_cli.run.traits import Traits
from concept_monitor_cli.space import UnitVectors, concept_words, unit_vectors
from concept_monitor_cli.store import Entry, Key, Store
from concept_monitor_cli.stories.inputs import (
    WithoutNotices,
    check_same,
    concepts_of,
    listed_concepts,
    run_encoder,
    run_study,
)
from concept_monitor_cli.study import Context, Study

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pandas as pd

# Of the concept table what commands look at: the sets of concepts that chance cannot tell apart are half of
# its bytes, and are only printed.
_COLUMNS = (
    *("epoch", "checkpoint", "layer", "unit", "detector", "rank", "concept", "category"),
    *("score", "p_value", "interpretable", "state", "effect"),
)
#: What a concept table is of.
MOMENT = ("epoch", "checkpoint", "layer", "detector")


class OpenRun:
    """A run and its inputs. Encoder, images and concepts are opened when first asked for.

    Attributes:
        table: the rows of the concept table that are asked for, without the columns that are only printed
            (`whole_table`); texts are categories.

    Args:
        root: the run folder.
        options: which layers, epochs and detector of it, and the machine.
        progress: told about long work.
        context: the run's images and words, where they are open already; else they are opened when needed.
        columns: of `table`, beside those that say where a row belongs.
        best: only the best concept of each unit is read.

    Raises:
        InputError: there is no run, or no such layer, detector or epoch in it.
    """

    def __init__(
        self,
        root: Path,
        options: ReadingOptions,
        progress: Progress,
        context: Context | None = None,
        columns: Collection[str] = _COLUMNS,
        best: bool = False,
    ) -> None:
        self.run = RunFolder.open(root)
        self.options = options
        self.progress = progress
        self.info: dict[str, Any] = self.run.info()
        # A detector that needs no encoder may have been added to a run that has one.
        whole = context is not None and (context.encoder is not None or self.info["encoder"] is None)
        self._given = context if whole else None
        self.table: pd.DataFrame = self._concepts(columns, best=best)

    def whole_table(self) -> pd.DataFrame:
        """The rows of `table` with all columns of the concept table; not kept."""
        return self._concepts(None)

    def _concepts(self, columns: Collection[str] | None, *, best: bool = False) -> pd.DataFrame:
        options = self.options
        table = self.run.concepts(
            layers=options.layers, detector=options.detector, columns=columns, best=best
        )
        if options.epochs is not None:
            epochs = options.epochs.select(table["epoch"].unique().tolist())
            table = table[table["epoch"].isin(epochs)].reset_index(drop=True)
        return table

    @cached_property
    def moments(self) -> pd.DataFrame:
        """Epoch, checkpoint, layer and detector (`MOMENT`) of the concept tables that are asked for."""
        return self.table[list(MOMENT)].drop_duplicates()

    @cached_property
    def all_moments(self) -> pd.DataFrame:
        """The same of all concept tables of the run."""
        options = self.options
        if not options.layers and options.detector is None and options.epochs is None:
            return self.moments
        return self.run.concepts(columns=(), best=True)[list(MOMENT)].drop_duplicates()

    @property
    def is_part(self) -> bool:
        """Whether a part of the run is asked for, and not all that it has."""
        return len(self.moments) < len(self.all_moments)

    @property
    def lacks_epochs(self) -> bool:
        """Whether layers are asked for without some of their epochs."""
        place = ["layer", "detector"]
        asked = self.moments[place].drop_duplicates()
        return len(self.all_moments.merge(asked, on=place)) > len(self.moments)

    def whole(self) -> OpenRun:
        """The same run, all that it has."""
        return OpenRun(self.run.root, ReadingOptions.of(self.options), WithoutNotices(self.progress))

    @property
    def name(self) -> str:
        """What to call the run in a picture."""
        return self.run.root.resolve().name

    @property
    def caption(self) -> str:
        """What stands below its plots: what names of renderings are worth, where it has no other images."""
        return caption(self.info)

    @property
    def fdr(self) -> float:
        """The share of false calls that its detectors allowed."""
        return fdr_of(self.info)

    @cached_property
    def traits(self) -> dict[str, Traits]:
        """What is true of all that each detector of the run says."""
        return traits_of(self.info, map(str, self.table["detector"].unique()))

    @cached_property
    def histories(self) -> list[History]:
        """A history per layer and detector."""
        return histories(self.first, self.traits)

    def ranges(self, history: History) -> pd.DataFrame | None:
        """What units say at ranges of their activation; `None` for detectors with other labels.

        Raises:
            InputError: a file is there and is no such table.
        """
        if history.traits.labels != "ranges":
            return None
        for schema in detector_class(history.detector).tables:
            if schema.name == "ranges":
                found = self.run.more(schema, history.layer, history.detector)
                return None if found is None else found[found["epoch"].isin(history.epochs)]
        return None

    @cached_property
    def store(self) -> Store:
        """The cache."""
        return Store(self.options.cache, progress=self.progress)

    def rows(self, history: History) -> pd.DataFrame:
        """The concept table of one layer and detector."""
        return history.rows(self.table).reset_index(drop=True)

    @cached_property
    def first(self) -> pd.DataFrame:
        """The rows of `table` that have the best concept of a unit."""
        return self.table[self.table["rank"] == 1].reset_index(drop=True)

    def first_rows(self, history: History) -> pd.DataFrame:
        """Of one layer and detector the best concept of every unit, at every epoch."""
        return history.rows(self.first).reset_index(drop=True)

    @property
    def detector(self) -> str:
        """The detector asked for, else the first of the run."""
        return str(self.options.detector or self.table["detector"].iloc[0])

    def first_labels(self, epoch: int, layer: str) -> pd.DataFrame:
        """The best label of each unit of a layer at an epoch, by `detector`."""
        first = self.first
        own = (first["epoch"] == epoch) & (first["layer"] == layer) & (first["detector"] == self.detector)
        return first[own]

    def has_settings_of(self, other: OpenRun) -> dict[str, bool]:
        """For probing set, concepts and encoder, whether both runs have the same."""
        made_with = ("probe", "concepts", "encoder")
        mine, its = (
            {name: (run.info[name] or {}).get("digest") for name in made_with} for run in (self, other)
        )
        return {name: mine[name] == its[name] for name in made_with}

    # -- the space of words ------------------------------------------------------------------

    @cached_property
    def _vectors(self) -> tuple[list[str], np.ndarray[Any, np.dtype[np.float32]]]:
        """The words of the run and their embeddings, each word once."""
        tables = [self.table, *(table for table in self._untrained.values() if table is not None)]
        placed = [name for name, traits in self.traits.items() if traits.in_word_space]
        words = sorted(
            {word for table in tables for word in concept_words(table[table["detector"].isin(placed)])}
        )
        if not words:
            return [], np.zeros((0, 1), dtype=np.float32)
        encoder, templates = self._encoder
        listed = listed_concepts(self.info, lambda: self.concepts)
        return words, embed_listed(
            self.store, encoder, words, listed, template=templates or None, progress=self.progress
        )

    @cached_property
    def _encoder(self) -> tuple[Encoder, list[str]]:
        if self._given is not None and self._given.encoder is not None:
            return self._given.encoder, list(self._given.templates)
        return run_encoder(self.run, self.options, self.progress)

    def embedded(self, text: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A text in the space of words, `(D,)` of unit length.

        Raises:
            InputError: the run has no encoder, or it cannot embed this text.
        """
        encoder, templates = self._encoder
        vector = embed_texts(self.store, encoder, [text], template=templates or None, progress=self.progress)[
            0
        ].astype(np.float64)
        unit: np.ndarray[Any, np.dtype[np.float64]] = vector / np.linalg.norm(vector)
        return unit

    def placed(self, history: History, epoch: int | None = None) -> UnitVectors | None:
        """The live units of a layer in the space of words, of one epoch or of all.

        None for detectors whose labels are no concepts, and for a run without an encoder.
        """
        if not history.live.any():
            return None
        rows = self.rows(history)
        return self._placed(rows if epoch is None else rows[rows["epoch"] == epoch], history.detector)

    def _placed(self, rows: pd.DataFrame, detector: str) -> UnitVectors | None:
        if not self.traits[detector].in_word_space or self.info["encoder"] is None:
            return None
        words, vectors = self._vectors
        return unit_vectors(rows, words, vectors)

    # -- what stands beside the numbers ------------------------------------------------------

    @cached_property
    def _untrained(self) -> dict[tuple[str, str], pd.DataFrame | None]:
        places = {(history.layer, history.detector) for history in self.histories}
        return {place: self.run.untrained(*place) for place in places}

    def untrained(self, history: History) -> pd.DataFrame | None:
        """The concept table of the layer with random weights; `None` where the run has none."""
        return self._untrained[history.layer, history.detector]

    def untrained_placed(self, history: History) -> UnitVectors | None:
        """The live units of the layer with random weights in the space of words; as `placed`."""
        rows = self.untrained(history)
        if rows is None or not ((rows["state"] == "live") & (rows["concept"] != "")).any():
            return None
        return self._placed(rows, history.detector)

    def records(self, history: History) -> list[TableRecord]:
        """What the tables of a layer were made from, in the order of the epochs; those that are there."""
        keys = zip(history.checkpoints, history.epochs.tolist(), strict=True)
        found = (
            self._records.get((history.layer, history.detector, checkpoint, epoch))
            for checkpoint, epoch in keys
        )
        return [record for record in found if record is not None]

    # -- images and recordings ---------------------------------------------------------------

    @cached_property
    def _study(self) -> Study:
        return run_study(self.run, self.options, self.progress)

    @cached_property
    def probe(self) -> ProbeSet:
        """The probing images that could be read, in the order of the recordings.

        Raises:
            InputError: they are gone, or others now.
        """
        skipped = {item["image"] for item in self.info["probe"]["skipped"]}
        listed = self._study.listed_probe
        probe = listed.subset([row for row, name in enumerate(listed.ids) if name not in skipped])
        check_same(self.run, "probe", probe.digest, "the probing images")
        return probe

    @cached_property
    def _image_rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.probe.ids)}

    def image(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The pixels of a probing image by its id, `(h, w, 3)`."""
        return np.asarray(self.probe.image(self._image_rows[name]))

    @cached_property
    def context(self) -> Context:
        """What detectors look at, as at the time of the `dissect`.

        Raises:
            InputError: images, concepts or encoder are gone, or others now.
        """
        if self._given is not None:
            return self._given
        encoder, templates = self._encoder
        return self.context_of(encoder, templates, self.concepts)

    @cached_property
    def concepts(self) -> ConceptSet:
        """The concepts of the run.

        Raises:
            InputError: they are gone, or others now.
        """
        return concepts_of(self.run, self._study) if self._given is None else self._given.concepts

    def context_of(self, encoder: Encoder | None, templates: Sequence[str], concepts: ConceptSet) -> Context:
        """The run's images as another encoder and other concepts see them; with `None` nothing embeds them.

        Raises:
            InputError: the images are gone, or others now.
        """
        by = self.info["probe"].get("groups_by", COPIES)
        geometries: list[Geometry] = [FINGERPRINT] if by == COPIES else []
        once = looked_at_once(self.store, encoder, *geometries)
        geometries += once
        probe, pixels = decode_probe(
            self.store,
            self.probe,
            geometries,
            workers=self.options.workers,
            progress=self.progress,
            once=once,
        )
        seen = dict(zip(geometries, pixels, strict=True))
        eyes = None if encoder is None else encoder.preprocessing
        return Context(
            store=self.store,
            probe=probe,
            pixels=None if eyes is None else seen[eyes.geometry],
            grouping=None if by == COPIES else by,
            fingerprints=seen.get(FINGERPRINT),
            concepts=concepts,
            encoder=encoder,
            templates=templates,
            device=resolve_device(self.options.device),
            batch_size=self.options.batch_size,
            progress=self.progress,
        )

    @cached_property
    def words(self) -> Words:
        """Images and concepts in the encoder's space."""
        context = self.context
        return Words(context.image_embeddings, context.text_embeddings, context.activations, context.groups)

    @cached_property
    def _records(self) -> dict[tuple[str, str, str, int], TableRecord]:
        return {
            (record.layer, record.detector, record.checkpoint, record.epoch): record
            for _, record in self.run.table_records()
        }

    def record(self, history: History, column: int) -> TableRecord:
        """What the table of a layer at one epoch was made from."""
        key = (
            history.layer,
            history.detector,
            history.checkpoints[column],
            int(history.epochs[column]),
        )
        return self._records[key]

    def is_recorded(self, history: History, column: int) -> bool:
        """Whether the store still has a layer's activations at one epoch."""
        kind, _, digest = self.record(history, column).recording.partition("/")
        return bool(digest) and self.store.has(Key(kind, digest, {}))

    def recording(self, history: History, column: int) -> Entry:
        """What the store has of a layer's activations at one epoch; the caller closes it.

        Raises:
            InputError: the store has it no more, or an older version wrote the run.
        """
        kind, _, digest = self.record(history, column).recording.partition("/")
        entry = self.store.get(Key(kind, digest, {})) if digest else None
        if entry is None:
            raise InputError(
                f"the activations of {history.layer} at epoch {history.epochs[column]} are not in the cache",
                where=self.store.root,
                hint="name the --cache-dir of the dissect, or dissect again with --save-scores",
            )
        return entry
