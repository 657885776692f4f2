"""Options: the class, the kinds of values, and the options that several commands share.

An option `--top-concepts` is at the same time the environment variable `CMON_TOP_CONCEPTS` and the key
`top-concepts` of the settings file. Flags beat environment, environment beats file, file beats default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args

import click
from click.core import ParameterSource

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import (
    CommonOptions,
    EpochFilter,
    PlotFormat,
    Precision,
    Shard,
    Source,
    nearest,
)

if TYPE_CHECKING:
    # A generic class for type checkers; in older versions of click not at run time.
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=CommonOptions)

DEFAULT = CommonOptions()

# More units than any layer has: a slip, which must not fill the memory.
_MOST_UNITS = 1_000_000

SHARED_PANEL = "Machine"
OUTPUT_PANEL = "Output"


# -- kinds of values ---------------------------------------------------------------------------


class BadValue(click.BadParameter):
    """A bad value with a word on what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class _Type(ParamType):
    """A kind of value. `toml` is the type that TOML must give it."""

    toml: ClassVar[type] = str


class Words(_Type):
    """A comma list. With `choices`, only these."""

    name = "words"
    envvar_list_splitter: ClassVar[str] = ","

    def __init__(self, choices: Sequence[str] = ()) -> None:
        self.choices = tuple(choices)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split at commas; a tuple comes from a settings file and is already split."""
        if isinstance(value, tuple):
            words = value
        else:
            words = tuple(word.strip() for word in str(value).split(",") if word.strip())
        for word in words:
            _check_choice(word, self.choices)
        return words


class Numbers(_Type):
    """A comma list of whole numbers from 0, with ranges: `3,7,10-12`."""

    name = "numbers"
    toml: ClassVar[type] = int
    envvar_list_splitter: ClassVar[str] = ","

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Split at commas and count out ranges."""
        if isinstance(value, tuple):
            if any(number < 0 for number in value):
                raise BadValue(f"{min(value)} is below 0", "count from 0")
            return value
        numbers: list[int] = []
        for part in filter(None, (part.strip() for part in str(value).split(","))):
            first, dash, last = part.partition("-")
            if not (first.isdecimal() and (last.isdecimal() if dash else not last)):
                raise BadValue(f"{part!r} is not a whole number from 0", "write 3,7 or 10-12")
            span = range(int(first), int(last if dash else first) + 1)
            if not 0 < len(span) <= _MOST_UNITS:
                raise BadValue(f"{part!r} is not a range of units", "write the smaller number first: 10-12")
            numbers.extend(span)
        return tuple(numbers)


class Choice(_Type):
    """One of a few words."""

    name = "choice"

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = tuple(choices)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word as it is, if it is one of them."""
        _check_choice(str(value), self.choices)
        return str(value)


def _check_choice(word: str, choices: Sequence[str]) -> None:
    if choices and word not in choices:
        alike = nearest(word, choices, count=1)
        hint = f"did you mean {alike[0]}? " if alike else ""
        raise BadValue(f"there is no {word!r}", f"{hint}choose from {', '.join(choices)}")


class Triple(_Type):
    """Three numbers for red, green and blue, or one for all."""

    name = "numbers"
    toml: ClassVar[type] = float

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Read `0.485,0.456,0.406` or `0.5`."""
        try:
            numbers = [float(part) for part in (value if isinstance(value, tuple) else str(value).split(","))]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3 or not all(abs(number) < float("inf") for number in numbers):
            raise BadValue(
                f"{value!r} is not three numbers", "write red,green,blue: 0.485,0.456,0.406, or 0.5"
            )
        return numbers[0], numbers[1], numbers[2]


class _Parsed(_Type):
    """A value that the library itself reads from text."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What the library makes of it."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except InputError as error:
            raise BadValue(error.what, error.hint) from error


class File(_Type):
    """A file or folder of the user's; `~` is understood wherever it comes from."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, with `~` spelled out."""
        if not str(value):
            raise BadValue("the path is empty")
        return Path(value).expanduser()


class Spec(_Type):
    """A name, or a path, or `kind:path`, which the library tells apart."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, with `~` spelled out."""
        text = str(value)
        if not text.strip():
            raise BadValue("the value is empty")
        kind, colon, rest = text.partition(":")
        if rest.startswith("~"):
            return f"{kind}{colon}{Path(rest).expanduser()}"
        return str(Path(text).expanduser()) if text.startswith("~") else text


class Text(_Type):
    """Any text. In an environment variable, a list of them has one in each line."""

    name = "text"
    envvar_list_splitter: ClassVar[str] = "\n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is."""
        return str(value)


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", text):
        raise InputError(f"there is no device {text!r}", hint="choose auto, cpu, cuda, cuda:1 or mps")
    return text


def _size(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", text)
    if match is None:
        raise InputError(f"{text!r} is not a size", hint="write 500MB or 20GB or 20GiB")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kMGT".index(prefix or " "))


def _duration(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|w)\s*", text)
    if match is None:
        raise InputError(f"{text!r} is not a length of time", hint="write 12h or 30d or 8w")
    return float(match[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


EPOCHS = _Parsed("epochs", EpochFilter.parse)
SHARD = _Parsed("share", Shard.parse)
DEVICE = _Parsed("device", _device)
SIZE = _Parsed("size", _size)
DURATION = _Parsed("time", _duration)
COUNT = click.IntRange(min=1)
FROM_ZERO = click.IntRange(min=0)
FRACTION = click.FloatRange(min=0, max=1, min_open=True)


# -- the option class --------------------------------------------------------------------------


class Option(click.Option):
    """An option that can also be set by environment variable and by file.

    Args:
        panel: the heading under which `--help` lists it.
        shown_default: the default in words, where the value itself says too little.
        risky: for values that a file found beside foreign checkpoints must not set: told the value, says
            whether it would run code or delete files.
    """

    def __init__(
        self,
        *args: Any,
        panel: str = "Options",
        shown_default: str | None = None,
        risky: Callable[[Any], bool] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.panel = panel
        self.shown_default = shown_default
        self.risky = risky
        if self.envvar is None and self.name not in ("help", "version"):
            self.envvar = f"CMON_{(self.name or '').upper()}"

    @property
    def takes_list(self) -> bool:
        """Whether a settings file may give a list."""
        return self.multiple or isinstance(self.type, Triple)

    @property
    def toml_type(self) -> type:
        """The TOML type of one value."""
        if isinstance(self.type, _Type):
            return self.type.toml
        if isinstance(self.type, click.types.BoolParamType):
            return bool
        if isinstance(self.type, click.types.FloatParamType):
            return float
        return int if isinstance(self.type, click.types.IntParamType) else str

    def from_file(self, value: Any) -> Any:
        """Convert a value of a settings file; what stands in a TOML list is not split at commas."""
        if self.multiple:
            items = value if isinstance(value, list) else [value]
            lists = isinstance(self.type, Words | Numbers)
            if lists and not isinstance(value, list) and isinstance(value, str):
                items = [value]
            elif lists:
                items = [(item,) for item in items]
            return tuple(self.type.convert(item, self, None) for item in items)
        if isinstance(value, list):
            value = tuple(value)
        return self.type.convert(value, self, None)

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """As click, but comma lists of a repeated option become one tuple."""
        result = super().process_value(ctx, value)
        if self.multiple and isinstance(self.type, Words | Numbers) and isinstance(result, tuple):
            flat = (item for part in result for item in (part if isinstance(part, tuple) else (part,)))
            return tuple(dict.fromkeys(flat))
        return result


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """An option of a command. Switches get a `--no-...` so that a flag can undo a file."""
    if settings.pop("switch", False):
        settings.setdefault("default", False)
        long = names[0].removeprefix("--")
        names = (f"--{long}/--no-{long}", *names[1:])
    return click.option(*names, cls=Option, **settings)


def _together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


# -- shared options ----------------------------------------------------------------------------

console_options = _together(
    option("--quiet", "-q", switch=True, panel=OUTPUT_PANEL, help="Only warnings, errors and the result."),
    option("--verbose", "-v", switch=True, panel=OUTPUT_PANEL, help="Details, and tracebacks of errors."),
    option(
        "--json",
        switch=True,
        panel=OUTPUT_PANEL,
        help="The result as one JSON object on standard output; all else goes to standard error.",
    ),
    option(
        "--config",
        metavar="FILE",
        type=File(),
        panel=OUTPUT_PANEL,
        shown_default="cmon.toml here, else beside the checkpoints",
        help="Settings in TOML: a key for every option.",
    ),
)

cache_option = option(
    "--cache-dir",
    metavar="DIR",
    type=File(),
    panel=SHARED_PANEL,
    shown_default="the user's cache folder",
    help="Where embeddings, decoded images and activations are kept for later runs.",
)

out_option = option(
    "--out",
    "-o",
    metavar="DIR",
    type=File(),
    default=DEFAULT.out,
    panel=OUTPUT_PANEL,
    help="The folder of the run.",
)

plot_option = option(
    "--plot-format",
    metavar="TYPE",
    type=Words(get_args(PlotFormat)),
    multiple=True,
    default=("png",),
    panel=OUTPUT_PANEL,
    help="File type of the plots: png, svg, pdf, or several.",
)

trust_option = option(
    "--trust-pickle",
    switch=True,
    panel="Network",
    risky=bool,
    help="Load checkpoints that can only be read by running the code in them. For your own files only.",
)

model_option = option(
    "--model",
    metavar="NAME",
    type=Spec(),
    panel="Network",
    shown_default="recognised from the weights",
    risky=lambda value: ":" in str(value),
    help="Architecture: a torchvision or timm name, package.module:factory or file.py:factory.",
)

seed_option = option(
    "--seed",
    metavar="N",
    type=FROM_ZERO,
    default=DEFAULT.seed,
    panel=SHARED_PANEL,
    help="Of every random choice.",
)

machine_options = _together(
    option(
        "--device",
        metavar="NAME",
        type=DEVICE,
        default=DEFAULT.device,
        panel=SHARED_PANEL,
        help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 or mps.",
    ),
    option(
        "--precision",
        metavar="TYPE",
        type=Choice(get_args(Precision)),
        default=DEFAULT.precision,
        panel=SHARED_PANEL,
        help="Of the forward passes: fp32, bf16 or fp16. Scores are always computed in fp32.",
    ),
    option(
        "--batch-size",
        metavar="N",
        type=COUNT,
        default=DEFAULT.batch_size,
        panel=SHARED_PANEL,
        help="Images per forward pass.",
    ),
    option(
        "--workers",
        metavar="N",
        type=COUNT,
        panel=SHARED_PANEL,
        shown_default="one per usable core",
        help="How many images are decoded at a time.",
    ),
    cache_option,
    seed_option,
)

dry_run_option = option(
    "--dry-run", switch=True, panel=OUTPUT_PANEL, help="Say what would be done, and do nothing."
)


# -- from what click read to the library's options ---------------------------------------------

# The library says `layers`, the command line `--layer`, because there it is written once per layer.
_FIELDS = {"layer": "layers", "detector": "detectors", "template": "templates", "plot_format": "plot_formats"}

_SOURCES: dict[ParameterSource, Source] = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.PROMPT: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
    ParameterSource.DEFAULT: "default",
}


def sources(ctx: click.Context) -> dict[str, Source]:
    """Where the value of each option came from."""
    found: dict[str, Source] = {}
    for param in ctx.command.params:
        source = ctx.get_parameter_source(param.name or "")
        if isinstance(param, Option) and source is not None:
            found[param.name or ""] = _SOURCES[source]
    return dict(sorted(found.items()))


def gather(kind: type[T], ctx: click.Context, values: Mapping[str, Any]) -> T:
    """The library's options from the values of a command; every field must have its option."""
    names = {item.name for item in fields(kind)}
    given: dict[str, Any] = {}
    for name, value in values.items():
        given[name if name in names else _FIELDS.get(name, name)] = value
    return kind(**given, sources=sources(ctx))
