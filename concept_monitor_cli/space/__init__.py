"""The shared concept space: units of every epoch, layer and run beside anchor words, in one picture."""

from concept_monitor_cli.space.anchors import parse_anchors
from concept_monitor_cli.space.projection import PROJECTIONS, project
from concept_monitor_cli.space.units import UnitVectors, unit_vectors

__all__ = ["PROJECTIONS", "UnitVectors", "parse_anchors", "project", "unit_vectors"]
