"""The shared concept space: units of every epoch, layer and run beside anchor words, in one picture."""

from concept_monitor_cli.space.anchors import default_anchors, misspelt, parse_anchors
from concept_monitor_cli.space.projection import PROJECTIONS, project
from concept_monitor_cli.space.unit_vectors import UnitVectors, concept_words, unit_vectors

__all__ = [
    "PROJECTIONS",
    "UnitVectors",
    "concept_words",
    "default_anchors",
    "misspelt",
    "parse_anchors",
    "project",
    "unit_vectors",
]
