"""Concept sets: the words that units are named with, and where they come from."""

from concept_monitor_cli.concepts.concept_set import CATEGORIES, ConceptSet
from concept_monitor_cli.concepts.sources import load_concepts, read_concept_lines, read_concept_table

__all__ = ["CATEGORIES", "ConceptSet", "load_concepts", "read_concept_lines", "read_concept_table"]
