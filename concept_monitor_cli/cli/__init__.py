"""The command line. One file per command: options in, one call of the library, what to print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run `cmon`.

    Args:
        args: the command line after the program's name; `None` for this process's own.

    Returns:
        The exit code: 0 done, 1 failed, 2 bad usage or input, 3 part done, 75 stopped and can be continued.
    """
    instruction = os.environ.get("_CMON_COMPLETE")
    if instruction and args is None:
        from click.shell_completion import shell_complete

        from concept_monitor_cli.cli.app import Session, root
        from concept_monitor_cli.cli.console import Console

        return shell_complete(root, {"obj": Session(Console())}, "cmon", "_CMON_COMPLETE", instruction)
    from concept_monitor_cli.cli.app import run

    return run(sys.argv[1:] if args is None else args)
