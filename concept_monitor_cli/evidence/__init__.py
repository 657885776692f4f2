"""Evidence instead of assumption: batch normalisation remembers how the images of the training looked."""

from concept_monitor_cli.evidence.candidates import Presentation
from concept_monitor_cli.evidence.find import evidence_key, find_input, fitting
from concept_monitor_cli.evidence.result import InputEvidence, Shown

__all__ = ["InputEvidence", "Presentation", "Shown", "evidence_key", "find_input", "fitting"]
