"""The command line. One file per command: options in, one call of the library, what to print."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence

# How often torch's threads look whether the others are done before they sleep (libgomp's own: 300,000). Where
# other programs have the cores, a thread looks for one that does not run: beside three of them `dynamics`
# over 60 checkpoints took 57 s, with this 36; beside other runs of torch it was seen to take ten times as
# long. Fewer looks cost time on free cores: with none at all, small networks take twice as long.
_LOOKS = "30000"
# New objects until Python looks for cycles among them (its own: 700). Importing torch and pandas alone makes
# a million that stay; going through them took an eighth of a run that has everything.
_NEW_OBJECTS = 50_000


def main(args: Sequence[str] | None = None) -> int:
    """Run `cmon`.

    Args:
        args: the command line after the program's name; `None` for this process's own.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad usage or input, 3 part done, 75 stopped and can be continued.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _LOOKS)  # read when torch is imported

    if args is None:  # the process is ours, and ends with this command
        gc.set_threshold(_NEW_OBJECTS, 30, 10)
        # Ending, Python would go through all objects once more: a second.
        atexit.register(gc.freeze)

    from concept_monitor_cli.cli.app import root, run

    if args is None and "_CMON_COMPLETE" in os.environ:
        # The shell asks what can stand there. Typer answers, and ends the process.
        root.main(args=[], prog_name="cmon")
    return run(sys.argv[1:] if args is None else args)
