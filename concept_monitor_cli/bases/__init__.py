"""What counts as a unit: the channels of a layer, or other directions in the space of its activations."""

from concept_monitor_cli.bases.base import Basis
from concept_monitor_cli.bases.make import fit_basis, member_names

__all__ = ["Basis", "fit_basis", "member_names"]
