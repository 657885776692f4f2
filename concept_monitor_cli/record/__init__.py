"""One forward pass per checkpoint that feeds every detector.

`record` runs the network; consumers keep what detectors need: pooled activations, top images, activation
maps, the quantile of each unit, the range of each unit.
"""

from concept_monitor_cli.record.consumers import Consumer, MapSpool, PooledWriter, UnitRange
from concept_monitor_cli.record.forward import Precision, RecordInfo, record
from concept_monitor_cli.record.quantile import UnitQuantile
from concept_monitor_cli.record.top_images import TopImages

__all__ = [
    "Consumer",
    "MapSpool",
    "PooledWriter",
    "Precision",
    "RecordInfo",
    "TopImages",
    "UnitQuantile",
    "UnitRange",
    "record",
]
