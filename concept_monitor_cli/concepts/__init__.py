"""Concept sets: the words that units are named with, and where they come from."""

from concept_monitor_cli.concepts.concept_set import CATEGORIES, ConceptSet
from concept_monitor_cli.concepts.plain import plain_names
from concept_monitor_cli.concepts.sources import load_concepts, read_concepts

__all__ = ["CATEGORIES", "ConceptSet", "load_concepts", "plain_names", "read_concepts"]
