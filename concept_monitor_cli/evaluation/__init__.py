"""How good are labels? What can be said against the truth, or against images that were held out."""

from concept_monitor_cli.evaluation.base import (
    Measure,
    Value,
    Verdict,
    list_measures,
    make_measures,
    register_measure,
)

# In the order in which they are shown.
from concept_monitor_cli.evaluation.labels import LabelMeasure  # isort: skip
from concept_monitor_cli.evaluation.contributions import ContributionMeasure  # isort: skip
from concept_monitor_cli.evaluation.weights import WeightMeasure  # isort: skip
from concept_monitor_cli.evaluation.simulation import SimulationMeasure  # isort: skip
from concept_monitor_cli.evaluation.cutoff import CutoffMeasure  # isort: skip
from concept_monitor_cli.evaluation.ranges import RangeMeasure  # isort: skip
from concept_monitor_cli.evaluation.clarity import ClarityMeasure  # isort: skip
from concept_monitor_cli.evaluation.groups import GroupMeasure  # isort: skip
from concept_monitor_cli.evaluation.sanity import SanityMeasure  # isort: skip
from concept_monitor_cli.evaluation.cosy import CosyMeasure  # isort: skip
from concept_monitor_cli.evaluation.subject import Common, Generated, Images, Labels, Subject, Trial

__all__ = [
    "ClarityMeasure",
    "Common",
    "ContributionMeasure",
    "CosyMeasure",
    "CutoffMeasure",
    "Generated",
    "GroupMeasure",
    "Images",
    "LabelMeasure",
    "Labels",
    "Measure",
    "RangeMeasure",
    "SanityMeasure",
    "SimulationMeasure",
    "Subject",
    "Trial",
    "Value",
    "Verdict",
    "WeightMeasure",
    "list_measures",
    "make_measures",
    "register_measure",
]
