"""The exception family that the command line prints as one to three lines.

Raise these where the problem is understood: `what` went wrong, `where` (a file, a layer, an option) and
what to do about it (`hint`). Everything else that escapes is a bug and is reported as one.
"""

from __future__ import annotations

from pathlib import Path


class CmonError(Exception):
    """The work failed. Exit code 1.

    Args:
        what: what went wrong, one line, no full stop needed.
        where: the file, folder, layer or option that it is about.
        hint: what the user can do, one line.

    >>> print(CmonError("the disk is full", where="cmon-out", hint="free some space and run it again"))
    the disk is full
    where: cmon-out
    try: free some space and run it again
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint

    def lines(self) -> list[str]:
        """The error as one to three lines of text."""
        lines = [self.what]
        if self.where is not None:
            lines.append(f"where: {self.where}")
        if self.hint is not None:
            lines.append(f"try: {self.hint}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


class InputError(CmonError):
    """Bad usage or bad input: a file, an option, a name that does not exist. Exit code 2.

    >>> import concept_monitor_cli as cmon
    >>> try:
    ...     cmon.open_run("no-such-folder")
    ... except cmon.InputError as error:
    ...     print(error.hint)
    run `cmon dissect CKPTS --layer NAME` first, or name another run with --out
    """

    exit_code = 2


class Interrupted(CmonError):
    """Stopped by a signal in a way that a rerun continues. Exit code 75 (EX_TEMPFAIL)."""

    exit_code = 75
