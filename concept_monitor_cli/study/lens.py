"""What a study must know of the lenses that will look at its recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.probe import ProbeSet
from concept_monitor_cli.run.traits import Traits


class Lens(Protocol):
    """What a study must know of the lenses that will look at its recordings.

    Attributes:
        name: as in tables and on the command line.
        needs_encoder: whether it looks at images and words through the image-text encoder.
        uses_encoder: whether it does so where the run has one, and does without elsewhere.
    """

    name: ClassVar[str]
    needs_encoder: bool
    uses_encoder: ClassVar[bool]

    @classmethod
    def traits(cls) -> Traits:
        """What is true of all its findings."""

    def settings(self) -> dict[str, Any]:
        """Every constant that its findings depend on, as JSON values."""

    def check(self, probe: ProbeSet, layers: Sequence[LayerInfo]) -> None:
        """Refuse at once, before an image is decoded, what cannot work."""
