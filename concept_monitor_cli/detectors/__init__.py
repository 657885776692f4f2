"""Detectors: which concept does a unit detect?"""

from concept_monitor_cli.detectors.base import (
    Detector,
    Findings,
    list_detectors,
    make_detector,
    register_detector,
)
from concept_monitor_cli.detectors.clip_dissect import ClipDissect
from concept_monitor_cli.detectors.compositional import Compositional
from concept_monitor_cli.detectors.context import Context
from concept_monitor_cli.detectors.network_dissection import NetworkDissection

__all__ = [
    "ClipDissect",
    "Compositional",
    "Context",
    "Detector",
    "Findings",
    "NetworkDissection",
    "list_detectors",
    "make_detector",
    "register_detector",
]
