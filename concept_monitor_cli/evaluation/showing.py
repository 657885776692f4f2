"""Where the concepts of a subject's labels are, on the images that it is judged by."""

from __future__ import annotations

from collections.abc import Sequence

from concept_monitor_cli.evaluation.subject import Common, Images
from concept_monitor_cli.functional.evaluation.simulation import ACTIVE_SHARE
from concept_monitor_cli.probe import presence
from concept_monitor_cli.probe.presence import LabelTable, Presence


def label_table(common: Common, images: Images) -> LabelTable | None:
    """What the probing set says of the images; see `probe.presence.label_table`."""
    return presence.label_table(common.store, images.ids, images.labels, common.progress)


def presence_of(
    common: Common,
    images: Images,
    concepts: Sequence[str],
    *,
    share: float = ACTIVE_SHARE,
    least: int = 0,
) -> Presence:
    """On which of the images some concepts are; see `probe.presence.presence_of`."""
    return presence.presence_of(
        label_table(common, images),
        concepts,
        len(images),
        embeddings=images.embeddings,
        embed_words=None if images.embeddings is None else common.context.embed_words,
        share=share,
        least=least,
    )
