"""Concept-Monitor: which human concept does each unit of a network detect, epoch by epoch."""

__version__ = "0.1.0"
