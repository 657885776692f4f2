from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from concept_monitor_cli.options import UnitsOptions
from concept_monitor_cli.readings.units import units
from concept_monitor_cli.run import TABLES


def test_known_histories_come_out(training: Path, cache: Path) -> None:
    units(UnitsOptions(out=training, cache_dir=cache, device="cpu"))
    lives = TABLES["units"].read_csv(training / "tables" / "units.csv").set_index("unit")
    print(lives.to_string())
    switches = lives.loc[0]
    assert (switches["final_concept"], switches["first_epoch"], switches["stable_from"]) == ("car", 3, 3)
    assert (switches["changes"], switches["confident_changes"]) == (1, 1)
