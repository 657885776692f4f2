"""Concept sets: the words that units are named with, and where they come from."""

from concept_monitor_cli.concepts.concept_set import CATEGORIES, ConceptSet

__all__ = ["CATEGORIES", "ConceptSet"]
