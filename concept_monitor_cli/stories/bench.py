"""A run on the bench: its labels, and everything that they are judged by."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.catalogue import detectors
from concept_monitor_cli.checkpoints import Checkpoint
from concept_monitor_cli.concepts.class_names import ClassNames, find_class_names, load_class_names
from concept_monitor_cli.encoders import Encoder
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.evaluation import Common, Generated, Images, Labels, Measure, Subject
from concept_monitor_cli.evaluation.classifier import Classifier, find_classifier
from concept_monitor_cli.evaluation.sentences import open_sentence_model
from concept_monitor_cli.evaluation.subject import LEAST_HELD_OUT, TextSpace
from concept_monitor_cli.lenses import make_detector
from concept_monitor_cli.lenses.halves import Halves
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.options import SIMILARITIES, DissectOptions, EvaluateOptions, Pooling
from concept_monitor_cli.options.declare import METHOD, declaration
from concept_monitor_cli.probe import LabelledImages
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.record.exemplars import holds_pooled
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder, open_checkpoint


@dataclass(frozen=True)
class _Seen:
    """Held-out images as an encoder and the annotators see them, for every layer and epoch.

    Attributes:
        rows: `(n,)`, which of the probing set they are.
        embeddings: `(n, D)`; `None` without an encoder.
        ids: what each is called.
        labels: where their concepts are; `None` where that is not known.
    """

    rows: Tensor
    embeddings: Tensor | None
    ids: tuple[str, ...]
    labels: LabelledImages | None


class Bench:
    """A run and everything that its labels are judged by.

    Attributes:
        notices: what the user should know of the images, each one sentence; told to `progress`, too.

    Args:
        options: see `evaluate`.
        progress: told what happens.
    """

    def __init__(self, options: EvaluateOptions, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.opened = OpenRun(options.out, options, progress)
        self._records = {(record.name, record.epoch): record for record in self.opened.run.checkpoints()}
        self.notices: list[str] = []
        self._recorders: dict[Pooling | None, Recorder] = {}
        self._opened: tuple[CheckpointRecord, Checkpoint] | None = None
        self._classifiers: dict[str, Classifier | InputError] = {}
        self._seen: dict[str, _Seen] = {}

    # -- what all labels share -----------------------------------------------------------------

    @cached_property
    def text(self) -> TextSpace:
        """The space of texts of the run's encoder.

        Raises:
            InputError: there is none.
        """
        return TextSpace(self.opened.context.embed_words)

    @property
    def has_encoder(self) -> bool:
        """Whether the run was made with an encoder. Masks name units without one."""
        return self.opened.info["encoder"] is not None

    @cached_property
    def common(self) -> Common:
        """The run's own images, concepts, encoder and space of texts."""
        opened = self.opened
        context = opened.context if self.has_encoder else opened.context_of(None, (), opened.concepts)
        model = open_sentence_model(
            self.options.sentence_model, self.opened.store, context.device, self.progress
        )
        if self.has_encoder:
            self.text.learn(context.concepts.concepts)  # the store has that list since the dissect
        return Common(
            context=context,
            text=self.text if self.has_encoder else None,
            sentence=None if model is None else TextSpace(model.embed),
            classes=self.classes,
            seed=self.options.seed,
            top_k=self._top_k,
        )

    @cached_property
    def classes(self) -> ClassNames | InputError:
        """The names of the network's classes, or why they are not known."""
        ids = self.opened.probe.ids
        if self.options.class_names is not None:
            return load_class_names(self.options.class_names, ids)
        record = self.record(self.opened.histories[0], -1)
        try:
            checkpoint = self.checkpoint(record)
        except CmonError as error:
            return InputError(error.what, where=error.where, hint=error.hint)
        classifier = self.classifier(record)
        if isinstance(classifier, InputError):
            return classifier
        return find_class_names(classifier.classes, checkpoint.meta, self.opened.info["probe"]["spec"], ids)

    def describe_classes(self) -> dict[str, Any] | None:
        """The class names for the result."""
        if isinstance(self.classes, InputError):
            return None
        return {"names": list(self.classes.names), "source": self.classes.source}

    # -- checkpoints ---------------------------------------------------------------------------

    def record(self, history: History, column: int) -> CheckpointRecord:
        """The checkpoint of a layer at one epoch."""
        return self._records[history.checkpoints[column], int(history.epochs[column])]

    @property
    def _loading(self) -> dict[str, Any]:
        """How the run's checkpoints are read: as they were by its `dissect`."""
        made = self.opened.info["options"]
        return {
            "trust_pickle": self.options.trust_pickle,
            "model": made["model"],
            "prefix": made.get("prefix"),
            "weights_key": made.get("weights_key"),
        }

    def checkpoint(self, record: CheckpointRecord) -> Checkpoint:
        """A checkpoint of the run; the last one asked for is kept.

        Raises:
            InputError: it is gone, or another one now.
        """
        if self._opened is None or self._opened[0] != record:
            self._opened = record, open_checkpoint(record, **self._loading)
        return self._opened[1]

    def classifier(self, record: CheckpointRecord) -> Classifier | InputError:
        """The classifier of a checkpoint, or why it is not known; the checkpoint is read for it once."""
        if record.folder not in self._classifiers:
            try:
                found = find_classifier(self.checkpoint(record).state_dict, self.options.classifier)
            except CmonError as error:
                found = InputError(error.what, where=error.where, hint=error.hint)
            self._classifiers[record.folder] = found
        return self._classifiers[record.folder]

    # -- activations ---------------------------------------------------------------------------

    def recorder(self, pooling: Pooling | None = None) -> Recorder:
        """The run's networks once more, on its own images."""
        if pooling not in self._recorders:
            self._recorders[pooling] = Recorder(self.opened, self.options, pooling=pooling)
        return self._recorders[pooling]

    @cached_property
    def held_out(self) -> Recorder | None:
        """The run's networks on the held-out images, where these are a set of their own."""
        spec = self.options.held_out
        return None if spec is None else Recorder(self.opened, self.options, probe=spec)

    @cached_property
    def generated(self) -> Recorder | None:
        """The run's networks on generated images of concepts, where there are some.

        Raises:
            InputError: there is no such folder.
        """
        spec = self.options.generated
        if spec is None:
            return None
        if not Path(spec).expanduser().is_dir():
            raise InputError(
                "there is no such folder",
                where=f"--generated {spec}",
                hint="a folder with a folder of images for each concept: DIR/red car/1.png",
            )
        # An encoder of given embeddings has none of these images.
        return Recorder(self.opened, self.options, probe=spec, embeds=False)

    def _generated(self, history: History, column: int) -> Generated:
        assert self.generated is not None
        pooled = self.generated.pooled(self.record(history, column), history.layer)
        ids = self.generated.context.probe.ids
        return Generated(pooled, tuple(name.rpartition("/")[0].rpartition("/")[2] for name in ids))

    def pooled(self, history: History, column: int) -> Tensor:
        """`Q` of a layer at one epoch on the run's images: from the store, else from a forward pass."""
        key = history.layer, history.checkpoints[column], int(history.epochs[column])
        for other in self.opened.histories:
            for place, (name, epoch) in enumerate(zip(other.checkpoints, other.epochs, strict=True)):
                if (other.layer, name, int(epoch)) != key:
                    continue
                if not holds_pooled(self.opened.record(other, place).recording):
                    continue
                try:
                    with self.opened.recording(other, place) as entry:
                        return torch.from_numpy(entry.read("pooled"))
                except InputError as error:
                    self.progress.detail(f"{error.what}: recorded once more")
        return self.recorder().pooled(self.record(history, column), history.layer)

    def _unseen(self, history: History, column: int, encoder: Encoder | None) -> Images:
        assert self.held_out is not None
        pooled = self.held_out.pooled(self.record(history, column), history.layer)
        eye = "" if encoder is None else encoder.digest
        if eye not in self._seen:
            self._seen[eye] = self._held_out_as_seen(self.held_out, encoder)
        seen = self._seen[eye]
        return Images(pooled[seen.rows], seen.embeddings, seen.ids, seen.labels)

    def _held_out_as_seen(self, held_out: Recorder, encoder: Encoder | None) -> _Seen:
        """The held-out images, without those that the labels were made from.

        Raises:
            InputError: too few are left.
        """
        probe, own = held_out.context.probe, set(self.opened.probe.digests)
        rows = [row for row, digest in enumerate(probe.digests) if digest not in own]
        if len(rows) < len(probe):
            said = f"{len(probe) - len(rows)} of the {len(probe)} held-out images are the run's own"
            if len(rows) < LEAST_HELD_OUT:
                raise InputError(
                    f"{said}; the other {len(rows)} are too few to judge labels by: {LEAST_HELD_OUT} are the "
                    "least",
                    where="--held-out",
                    hint="give images that the run has not seen",
                )
            self._notice(f"{said}: labels are judged by the other {len(rows)}")
        embeddings = None if encoder is None else held_out.context_of(encoder).image_embeddings[rows]
        annotations = probe.annotations
        return _Seen(
            torch.tensor(rows, dtype=torch.int64),
            embeddings,
            tuple(probe.ids[row] for row in rows),
            None if annotations is None else LabelledImages(annotations.subset(rows)),
        )

    def _notice(self, message: str) -> None:
        if message not in self.notices:
            self.notices.append(message)
            self.progress.notice(message)

    def _logits(self, history: History, column: int) -> Tensor | None:
        """What the classifier put out at the epoch of another layer; `None` where it was not recorded."""
        record = self.record(history, column)
        classifier = self.classifier(record)
        if isinstance(classifier, InputError):
            return None
        for other in self.opened.histories:
            if other.traits.evidence != "similarity" or not classifier.is_layer(
                other.layer, len(other.units)
            ):
                continue
            for place, (name, epoch) in enumerate(zip(other.checkpoints, other.epochs, strict=True)):
                if (name, int(epoch)) == (record.name, record.epoch):
                    return self.pooled(other, place)
        return None

    # -- labels --------------------------------------------------------------------------------

    @property
    def _top_k(self) -> int | None:
        """`--top-k` of the run, whatever similarity it was made with: others are judged as it would be."""
        top_k = self.opened.info["options"].get("top_k")
        return None if top_k is None else int(top_k)

    @property
    def own_similarity(self) -> str:
        """The similarity that the run was made with."""
        detectors = self.opened.info["settings"]["detectors"]
        named = [made["similarity"] for made in detectors.values() if "similarity" in made]
        return str(named[0]) if named else ""

    def wants(self, measure: Measure, subject: Subject) -> bool:
        """Whether a measure is to judge this similarity: any that was asked for, else the run's own."""
        everything = measure.every_similarity or bool(self.options.similarities)
        return everything or subject.similarity in ("", self.own_similarity)

    def subjects(self, measures: Sequence[Measure]) -> Iterator[Subject]:
        """The labels of every layer, epoch, detector and similarity that was asked for."""
        for history in self.opened.histories:
            for column in range(len(history.epochs)):
                pooled = cache(partial(self.pooled, history, column))
                for similarity in self._similarities(history, column, measures):
                    yield self.subject(history, column, similarity, self.common, pooled)

    def _similarities(self, history: History, column: int, measures: Sequence[Measure]) -> list[str]:
        if history.traits.evidence != "similarity":
            return [""]
        if self.options.similarities:
            return list(self.options.similarities)
        classifier = self.classifier(self.record(history, column))
        final = isinstance(classifier, Classifier) and classifier.is_layer(history.layer, len(history.units))
        if final and any(measure.every_similarity for measure in measures):
            return list(SIMILARITIES)
        return [self.own_similarity]

    def subject(
        self,
        history: History,
        column: int,
        similarity: str,
        common: Common,
        pooled: Callable[[], Tensor],
        *,
        own: bool = True,
    ) -> Subject:
        """The labels of one layer at one epoch.

        Args:
            history: the layer.
            column: of the history: which epoch.
            similarity: by which the labels are made; `""` for a detector without.
            common: images, concepts and encoder.
            pooled: gives `Q`.
            own: whether these are the run's own concepts, encoder and pooling; its tables hold those labels.
        """
        record = self.record(history, column)
        given = own and similarity in ("", self.own_similarity)
        encoder = common.context.encoder
        return Subject(
            epoch=record.epoch,
            checkpoint=record.name,
            layer=history.layer,
            detector=history.detector,
            labels_are=history.traits.labels,
            similarity=similarity,
            common=common,
            given=self._labels(history, column) if given else None,
            candidates=self._candidates(history, common),
            read_pooled=pooled,
            read_unseen=partial(self._unseen, history, column, encoder) if self.held_out else None,
            read_classifier=lambda: self.classifier(record),
            read_logits=lambda: self._logits(history, column),
            by_pixels=history.traits.evidence == "pixels",
            read_halves=partial(self._halves, history, column, common) if given else lambda: None,
            read_generated=partial(self._generated, history, column) if self.generated else None,
        )

    def _halves(self, history: History, column: int, common: Common) -> Halves | None:
        """What the detector of a layer says of it from either half of the run's images.

        Raises:
            InputError: the recording is gone, or this version would not name units as the run's did.
        """
        info = self.opened.info
        if history.detector not in detectors():
            return None  # a plug-in: its code is not run to read a run
        # All options of methods, so that no detector has to be known here.
        declared = {item.name: declaration(item) for item in fields(DissectOptions)}
        names = [name for name, about in declared.items() if about is not None and about.panel == METHOD]
        made = {name: info["options"][name] for name in names if name in info["options"]}
        detector = make_detector(history.detector, DissectOptions(checkpoints=(), layers=(), **made))
        if json.loads(json.dumps(detector.settings())) != info["settings"]["detectors"][history.detector]:
            raise InputError(
                f"labels of {history.detector} were made with other settings than this version has",
                where=self.opened.run.root,
                hint="dissect again, or judge them by other images: --held-out PROBE",
            )
        with self.opened.recording(history, column) as entry:
            return detector.halves(entry, common.context)

    def _labels(self, history: History, column: int) -> Labels:
        rows = self.opened.first_rows(history)
        rows = rows[rows["epoch"] == history.epochs[column]]
        rows = rows[rows["checkpoint"] == history.checkpoints[column]].sort_values("unit")
        return Labels(
            concepts=rows["concept"].to_numpy(dtype=object),
            scores=rows["score"].to_numpy(dtype=float),
            p_values=rows["p_value"].to_numpy(dtype=float),
            interpretable=rows["interpretable"].to_numpy(dtype=bool),
            live=rows["state"].to_numpy() == "live",
        )

    def _candidates(self, history: History, common: Common) -> tuple[str, ...]:
        if history.traits.candidates == "concepts":
            return common.concepts.concepts
        # A formula is made of the labels of the masks; chance is one of these.
        return common.context.labels.names
