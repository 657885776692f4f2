"""Detectors: which concept does a unit detect?"""

from concept_monitor_cli.lenses.base import (
    Detector,
    Findings,
    list_detectors,
    make_detector,
    register_detector,
)
from concept_monitor_cli.lenses.names.clip_dissect import ClipDissect
from concept_monitor_cli.lenses.names.compositional import Compositional
from concept_monitor_cli.lenses.names.network_dissection import NetworkDissection
from concept_monitor_cli.study.context import Context

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
