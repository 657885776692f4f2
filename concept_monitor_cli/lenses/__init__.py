"""Lenses: what a recording of a layer says. A detector names the units; each is a file in `names/`."""

from concept_monitor_cli.lenses.base import Detector, Findings
from concept_monitor_cli.lenses.registry import detector_class, make_detector, make_detectors, traits_of

__all__ = [
    "Detector",
    "Findings",
    "detector_class",
    "make_detector",
    "make_detectors",
    "traits_of",
]
