"""How an option is declared: once, as a field of the options of its command.

    top_k: int | None = option(
        None, "Top images of a unit that soft-wpmi looks at.", panel=METHOD, metavar="K", read=count
    )

From this declaration come the field and its default, the flag `--top-k`, the environment variable
`CMON_TOP_K`, the key `top-k` of the settings file, and the line of `--help`. The type of the field says the
rest: a truth value is a switch, a `Literal` is one of its words, a `tuple[X, ...]` may be given repeatedly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_KEY = "option"

# The headings of `--help`, in the order in which they stand there.
WHAT = "What to dissect"
CHECKPOINTS = "Which checkpoints"
PART = "Part of the run"
TRUTH = "Truth"
IMAGES = "Images"
GRID = "Grid"
PEOPLE = "Ratings by people"
PAGE = "Page"
PICTURE = "Picture"
CONFIDENCE = "Confidence"
NETWORK = "Network"
PROBE = "Probe images, concepts, encoder"
METHOD = "Method"
LISTED = "What is listed"
WHEN = "When to look, when to stop"
WARN = "What to warn of"
KEPT = "What is kept current besides"
SLURM = "What to ask SLURM for"
TRAINING = "Training"
REMOVE = "What to remove"
MACHINE = "Machine"
OUTPUT = "Output"
PANELS = (
    *(
        WHAT,
        CHECKPOINTS,
        PART,
        TRUTH,
        IMAGES,
        PEOPLE,
        GRID,
        PAGE,
        PICTURE,
        CONFIDENCE,
        NETWORK,
        PROBE,
        METHOD,
        LISTED,
    ),
    *(WHEN, WARN, KEPT, SLURM, TRAINING, REMOVE, MACHINE, OUTPUT),
)


def _never(value: Any) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What the command line must know of an option beyond the type of its field.

    Attributes:
        help: its line in `--help`, or what makes this line when it is asked for.
        panel: the heading it stands under; of an argument, none.
        name: in flag, variable and key, where it is not that of the field: `--layer` fills `layers`.
        flags: all ways to write it, e.g. `("--layer", "-l")`; none means `--name`.
        metavar: what stands for the value.
        read: from what was written to one value; raises `InputError`.
        check: raises `InputError` for a word of a list that cannot be.
        separator: between the words of a list in one value.
        shown: in the place of the default, where that says nothing.
        risky: whether a value would run code or delete files: a settings file that came with foreign
            checkpoints must not hold it.
        argument: it is given by its place, without a flag.
        eager: it is read before the others.
    """

    help: str | Callable[[], str]
    panel: str | None = None
    name: str | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    read: Callable[[Any], Any] | None = None
    check: Callable[[str], Any] | None = None
    separator: str = ","
    shown: str | None = None
    risky: Callable[[Any], bool] = _never
    argument: bool = False
    eager: bool = False

    def name_of(self, field_name: str) -> str:
        """The name on the command line of the field that has this declaration."""
        return self.name or field_name


def declare(help: str | Callable[[], str], **about: Any) -> Mapping[str, Declaration]:
    """The metadata of a field that must be given: `field(metadata=declare(...))`; see `Declaration`."""
    return {_KEY: Declaration(help=help, **about)}


def option(default: Any, help: str | Callable[[], str], *, panel: str, **about: Any) -> Any:
    """A field that is an option.

    Args:
        default: of the field, or a function without arguments that makes it.
        help: one line, or what makes it.
        panel: the heading it stands under.
        **about: more of a `Declaration`.
    """
    metadata = declare(help, panel=panel, **about)
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def argument(default: Any, help: str, **about: Any) -> Any:
    """A field that is given by its place; for the arguments see `option`."""
    return field(default=default, metadata=declare(help, argument=True, **about))


def declaration(item: Any) -> Declaration | None:
    """The declaration of a dataclass's field; `None` where it cannot be given on the command line."""
    found: Declaration | None = item.metadata.get(_KEY)
    return found
