"""What a `dissect` is made of: every layer of a checkpoint, in every basis, as every detector sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from concept_monitor_cli.checkpoints import Checkpoint
from concept_monitor_cli.lenses import Detector, make_detectors
from concept_monitor_cli.lenses.halves import MOST_UNITS
from concept_monitor_cli.lenses.responses import redundancy_key
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.store import Key
from concept_monitor_cli.study import (
    Architecture,
    Study,
)
from concept_monitor_cli.study.passes import Seen
from concept_monitor_cli.study.seen import (
    looks_of,
    seen,
    untrained_weights,
)

if TYPE_CHECKING:
    pass

# `--null untrained`: units of random networks in a null distribution, and at least this many networks: so
# no single draw of weights decides. The seeds are far from those that a user's own networks may have.
UNTRAINED_UNITS = 500
MIN_UNTRAINED = 2
UNTRAINED_SEED = 7_310_000


@dataclass(frozen=True)
class Piece:
    """One layer of one checkpoint as one detector sees it: the unit of work, and of a table.

    Attributes:
        detector: the detector.
        seen: what it reads.
        finding: where the store has what the detector concluded.
        untrained: the same layer with random weights, where a label must beat those.
        random: the same layer with random weights and where the store has what the detector concludes from
            it, where floors are wanted.
    """

    detector: Detector
    seen: Seen
    finding: Key
    untrained: tuple[Seen, ...] = ()
    random: tuple[Seen, Key] | None = None

    @property
    def layer(self) -> LayerInfo:
        """The layer."""
        return self.seen.layer

    @property
    def table(self) -> tuple[str, str]:
        """Layer and detector, by name: which table of the checkpoint."""
        return self.layer.name, self.detector.name


def open_study(options: DissectOptions, progress: Progress) -> Study:
    """The inputs of a dissect, with the detectors that are asked for."""
    kept = {} if options.overwrite else RunFolder(options.out).bases()
    return Study(options, progress, make_detectors(options), kept_bases=kept)


def pieces_of(study: Study, architecture: Architecture, checkpoint: Checkpoint) -> list[Piece]:
    """Every layer with every detector, with the keys under which the store may have it already."""
    pieces = []
    options, detectors = study.options, make_detectors(study.options)

    def finding(detector: Detector, own: Seen, untrained: Sequence[Seen]) -> Key:
        return study.store.key(
            "findings",
            recording=own.key.digest,
            detector=detector.name,
            settings=detector.settings(),
            null=options.null,
            fdr=options.fdr,
            seed=options.seed,
            **({"untrained": [each.key.digest for each in untrained]} if untrained else {}),
            **({"code": detector.code} if detector.code else {}),
            **detector.depends_on(study.context),
        )

    for look in looks_of(study, architecture):
        weights = architecture.weights_digest(checkpoint, look.tapped.name)
        for detector in detectors:
            request = detector.recording(study.context)
            own = seen(study, architecture, look, request, weights=weights)
            untrained = tuple(
                seen(study, architecture, look, request, weights=untrained_weights(seed))
                for seed in untrained_seeds(study, look.layer)
            )
            random = seen(study, architecture, look, request, weights=untrained_weights(first_seed(study)))
            pieces.append(
                Piece(
                    detector,
                    own,
                    finding(detector, own, untrained),
                    untrained,
                    (random, finding(detector, random, untrained)) if options.floors else None,
                )
            )
    return pieces


def halves_key(study: Study, piece: Piece) -> Key:
    """Where the store has what either half of the images says of a piece."""
    return study.store.key(
        "halves",
        recording=piece.seen.key.digest,
        detector=piece.detector.name,
        settings=piece.detector.settings(),
        halved=study.context.groups_digest,
        seed=study.options.seed,
        units=MOST_UNITS,
        **({"code": piece.detector.code} if piece.detector.code else {}),
        **piece.detector.depends_on(study.context),
    )


def first_seed(study: Study) -> int:
    """The seed of the first random network: that of floors, and the first of a null distribution."""
    return UNTRAINED_SEED + 1000 * study.options.seed


def untrained_seeds(study: Study, layer: LayerInfo) -> list[int]:
    """Which random networks a label must beat: none, or enough for a null distribution."""
    if study.options.null != "untrained":
        return []
    networks = max(MIN_UNTRAINED, -(-UNTRAINED_UNITS // layer.units))
    return [first_seed(study) + number for number in range(networks)]


def untrained_by_seed(study: Study, pieces: Sequence[Piece]) -> dict[int, list[Seen]]:
    """What is wanted of each network with random weights, by its seed."""
    by_seed: dict[int, list[Seen]] = {}
    for piece in pieces:
        for seed, each in zip(untrained_seeds(study, piece.layer), piece.untrained, strict=True):
            by_seed.setdefault(seed, []).append(each)
    return dict(sorted(by_seed.items()))


def random_pieces(study: Study, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces of the network with random weights that are wanted for floors and not concluded yet."""
    return [
        replace(piece, seen=piece.random[0], finding=piece.random[1])
        for piece in pieces
        if piece.random is not None and not study.store.proved(piece.random[1])
    ]


def unknown_pieces(study: Study, pieces: Sequence[Piece]) -> list[Piece]:
    """Those of which something must be concluded from the recording, which then has to be there.

    Score matrices are not stored, so where they are wanted, all.
    """

    def known(piece: Piece) -> bool:
        keys = (piece.finding, redundancy_key(study.context, piece.seen.key), halves_key(study, piece))
        return all(study.store.proved(key) for key in keys)

    return [piece for piece in pieces if study.options.save_scores or not known(piece)]
