"""Detectors: what is a unit called? A file each; `cmon` finds them here."""
