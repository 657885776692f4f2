"""Tables that follow from others: are they still those that would be written?

Beside the first of them lies a JSON file of its name: the digest of all that they follow from (`made`), and
the SHA-256 of each (`files`; of one that was not written, nothing).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from concept_monitor_cli.run.folder import RunFolder
from concept_monitor_cli.run.records import file_digests
from concept_monitor_cli.store.atomic import write_text_atomic


def follows_from(run: RunFolder, names: Sequence[str], made: str) -> bool:
    """Whether some tables of a run are as they were written, and were made from just this.

    Args:
        run: the run.
        names: of the tables, as for `RunFolder.write_csv`.
        made: the digest of all that they follow from.
    """
    try:
        noted = json.loads(_note(run, names).read_text(encoding="utf-8"))
        return bool(noted == {"made": made, "files": _digests(run, names)})
    except (OSError, ValueError):
        return False


def note_what_from(run: RunFolder, names: Sequence[str], made: str) -> None:
    """Note what some tables, which were just written, follow from. Arguments as those of `follows_from`."""
    noted = {"made": made, "files": _digests(run, names)}
    write_text_atomic(_note(run, names), json.dumps(noted, indent=2, sort_keys=True) + "\n")


def _note(run: RunFolder, names: Sequence[str]) -> Path:
    return run.tables / f"{names[0]}.json"


def _digests(run: RunFolder, names: Sequence[str]) -> dict[str, str]:
    return file_digests(run.tables / f"{name}.csv" for name in names)
