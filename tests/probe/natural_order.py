"""A probing set in the natural order of its files, to compare with what was written."""

from __future__ import annotations

from typing import Any

import numpy as np

from concept_monitor_cli import probe
from concept_monitor_cli.probe import ProbeSet


def load_probe(spec: str, **options: Any) -> ProbeSet:
    """`probe.load_probe`, with the images put back from the order of content into that of their files."""
    loaded = probe.load_probe(spec, **options)
    return loaded.subset(np.argsort(loaded.rows).tolist())
