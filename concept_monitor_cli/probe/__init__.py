"""Probing sets: the images a network is shown, decoded once, and their labels and masks."""

from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.probe.annotations import Annotations, ImageLabels, Label
from concept_monitor_cli.probe.labelled import LabelledImages
from concept_monitor_cli.probe.load import load_probe
from concept_monitor_cli.probe.pixels import Pixels, ToDecode, decode_probe, plan_probe
from concept_monitor_cli.probe.probe_set import ProbeSet
from concept_monitor_cli.probe.skipped import Skipped

__all__ = [
    "Annotations",
    "Geometry",
    "ImageLabels",
    "Label",
    "LabelledImages",
    "Pixels",
    "Preprocessing",
    "ProbeSet",
    "Skipped",
    "ToDecode",
    "decode_probe",
    "load_probe",
    "plan_probe",
]
