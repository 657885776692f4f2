"""The options that several commands share, each written down once, and the kinds of values.

A command takes an option by naming it in its signature, `out: Out = DEFAULT.out`. Such an option `--out` is
at the same time the environment variable `CMON_OUT` and the key `out` of the settings file. Flags beat
environment, environment beats file, file beats default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NewType, TypeVar, get_args

import typer
from typer.core import TyperOption

from concept_monitor_cli import options as library
from concept_monitor_cli.catalogue import detectors
from concept_monitor_cli.cli.config import Risky, read_settings, settings_in
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import CommonOptions, EpochFilter, Source, nearest

T = TypeVar("T", bound=CommonOptions)

DEFAULT = CommonOptions()

# Headings of `--help` that several commands share.
PART = "Part of the run"
CHECKPOINTS = "Which checkpoints"
NETWORK = "Network"
MACHINE = "Machine"
OUTPUT = "Output"

# More units than any layer has: a slip, which must not fill the memory.
_MOST_UNITS = 1_000_000


# -- kinds of values: what `parser=` and `callback=` of an option take --------------------------


class BadValue(typer.BadParameter):
    """A bad value with a word on what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def path(value: Any) -> Path:
    """A file or folder of the user's; `~` is understood wherever it comes from."""
    if not str(value):
        raise BadValue("the path is empty")
    return Path(value).expanduser()


def spec(value: Any) -> str:
    """A name, or a path, or `kind:path`, which the library tells apart. `~` is spelled out."""
    text = str(value)
    if not text.strip():
        raise BadValue("the value is empty")
    kind, colon, rest = text.partition(":")
    if rest.startswith("~"):
        return f"{kind}{colon}{Path(rest).expanduser()}"
    return str(Path(text).expanduser()) if text.startswith("~") else text


def one_of(words: Any) -> Callable[[Any], str]:
    """One of the words of a `Literal`, with the nearest ones in the error."""
    choices: tuple[str, ...] = get_args(words)

    def choice(value: Any) -> str:
        _check_choice(str(value), choices)
        return str(value)

    return choice


def _check_choice(word: str, choices: Sequence[str]) -> None:
    if choices and word not in choices:
        alike = nearest(word, choices, count=1)
        hint = f"did you mean {alike[0]}? " if alike else ""
        raise BadValue(f"there is no {word!r}", f"{hint}choose from {', '.join(choices)}")


def number(
    kind: type[int] | type[float],
    *,
    least: float = float("-inf"),
    above: float = float("-inf"),
    most: float = float("inf"),
) -> Callable[[Any], Any]:
    """A whole number (`int`) or any number (`float`) between bounds."""
    name = "a whole number" if kind is int else "a number"
    bounds = [f"from {least}" if least > above else f"above {above}" if above > least else ""]
    bounds.append(f"to {most}" if most < float("inf") else "")
    wanted = " ".join([name, *filter(None, bounds)])

    def convert(value: Any) -> Any:
        try:
            found = kind(value)
        except (ValueError, OverflowError):
            found = float("nan")
        # Not a number compares as false, so it is refused here, too.
        if not (least <= found <= most and found > above and abs(found) < float("inf")):
            raise BadValue(f"{str(value)!r} is not {wanted}")
        return found

    return convert


count = number(int, least=1)
from_zero = number(int, least=0)
share = number(float, above=0, most=1)


def parsed(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A value that the library itself reads from text."""

    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except InputError as error:
            raise BadValue(error.what, error.hint) from error

    return convert


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", text):
        raise InputError(f"there is no device {text!r}", hint="choose auto, cpu, cuda, cuda:1 or mps")
    return text


Bytes = NewType("Bytes", int)
Seconds = NewType("Seconds", float)


def _size(text: str) -> Bytes:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", text)
    if match is None:
        raise InputError(f"{text!r} is not a size", hint="write 500MB or 20GB or 20GiB")
    number, prefix, binary = match.groups()
    return Bytes(int(float(number) * (1024 if binary else 1000) ** " kMGT".index(prefix or " ")))


def _duration(text: str) -> Seconds:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|w)\s*", text)
    if match is None:
        raise InputError(f"{text!r} is not a length of time", hint="write 12h or 30d or 8w")
    return Seconds(float(match[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]])


size = parsed(_size)
duration = parsed(_duration)

# A type of its own, because Typer would take a plain tuple for three values after the option.
Rgb = NewType("Rgb", library.Triple)


def rgb(value: Any) -> library.Triple:
    """Three numbers for red, green and blue, or one for all: `0.485,0.456,0.406` or `0.5`."""
    try:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(abs(number) < float("inf") for number in numbers):
        raise BadValue(f"{value!r} is not three numbers", "write red,green,blue: 0.485,0.456,0.406, or 0.5")
    return numbers[0], numbers[1], numbers[2]


GreyRange = NewType("GreyRange", tuple[float, float])


def grey_range(value: Any) -> tuple[float, float]:
    """Two numbers, the smaller one first: `-1000,400`."""
    try:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or not -1e300 < numbers[0] < numbers[1] < 1e300:
        raise BadValue(f"{value!r} is not two numbers, the smaller first", "write black,white: 0,4095")
    return numbers[0], numbers[1]


def comma_list(
    words: Any = None, *, separator: str = ",", check: Callable[[str], Any] | None = None
) -> Callable[..., list[str]]:
    """A callback for a repeated option that also takes a list in one: `--layer layer3,layer4`.

    Args:
        words: a `Literal` with the words there are; None for any.
        check: raises `InputError` for a word that cannot be; with `words`, that is checked too.
        separator: between the words of one value. On the command line a line end separates nothing, so
            with it each value stays whole there.
    """
    choices: tuple[str, ...] = get_args(words)

    def split(ctx: typer.Context, param: typer.CallbackParam, value: list[str] | None) -> list[str]:
        name, given = param.name or "", value or []
        source = source_of(ctx, name)
        if source == "environment":
            # Typer would split it at white space, and `hot dog` is one word.
            given = [os.environ[variable(name)]]
        # In a list of the settings file, what stands between quotes is one word.
        listed = source == "file" and isinstance(settings_in(ctx).values[name], list)
        if source != "default" and not listed:
            given = [part.strip() for item in given for part in item.split(separator) if part.strip()]
        for word in given:
            _check_choice(word, choices)
            if check is not None:
                parsed(check)(word)
        return list(dict.fromkeys(given))

    return split


def unit_list(value: Any) -> tuple[int, ...]:
    """Whole numbers from 0, with ranges: `3,7,10-12`. To be used with `callback=joined`."""
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


def joined(value: list[tuple[int, ...]] | None) -> list[int]:
    """The parts of a repeated option as one list."""
    return list(dict.fromkeys(item for part in value or [] for item in part))


def detectors_help() -> str:
    """A line for each detector that there is."""
    listed = [f"{each.name}: {each.summary}" for each in detectors().values()]
    return ". ".join([*listed, "Or file.py:Class, one of your own"]) + "."


# -- what every command takes: how it prints, and from where it has its settings -----------------

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet/--no-quiet", "-q", rich_help_panel=OUTPUT, help="Only warnings, errors and the result."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose/--no-verbose", "-v", rich_help_panel=OUTPUT, help="Details, and tracebacks of errors."
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json/--no-json",
        rich_help_panel=OUTPUT,
        help="The result as one JSON object on standard output; all else goes to standard error.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        parser=path,
        # Read before the other options get their values.
        is_eager=True,
        callback=read_settings,
        rich_help_panel=OUTPUT,
        show_default="cmon.toml here, else beside the checkpoints",
        help="Settings in TOML: a key for every option.",
    ),
]

# -- what several commands take ------------------------------------------------------------------

Checkpoints = Annotated[
    list[str],
    typer.Argument(
        metavar="CKPTS",
        # Their folder may hold settings, so it must be known before those are read.
        is_eager=True,
        help="A folder of checkpoints, a file, or a glob. Several may be given. torchvision/NAME and "
        "timm/NAME are the pretrained weights in the library's cache.",
    ),
]
Order = Annotated[
    str,
    typer.Option(
        "--order",
        metavar="RULE",
        parser=spec,
        rich_help_panel=CHECKPOINTS,
        help="Of the checkpoints. auto: by epoch; name: as their names sort, from 0 on; or a pattern that "
        "says where the epoch stands: 'net_{epoch}_*'.",
    ),
]
Series = Annotated[
    str | None,
    typer.Option(
        "--series",
        metavar="NAME",
        parser=spec,
        rich_help_panel=CHECKPOINTS,
        show_default="the longest",
        help="Which checkpoints, where several networks or trainings are there: a name or a part of it.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        parser=spec,
        rich_help_panel=NETWORK,
        show_default="recognised from the weights",
        help="Architecture: a torchvision or timm name, package.module:factory or file.py:factory.",
    ),
    Risky(lambda value: ":" in str(value)),
]
InputSize = Annotated[
    int | None,
    typer.Option(
        "--input-size",
        metavar="PIXELS",
        parser=count,
        rich_help_panel=NETWORK,
        show_default="the architecture's own",
        help="Side of the square that the network sees. Checkpoints do not say; a wrong guess spoils the "
        "labels.",
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle/--no-trust-pickle",
        rich_help_panel=NETWORK,
        help="Load checkpoints that can only be read by running the code in them. For your own files only.",
    ),
    Risky(bool),
]

Prefix = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        rich_help_panel=NETWORK,
        show_default="looked for",
        help="The network whose weights' names begin so, where a checkpoint has several: encoder_q.",
    ),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=NETWORK,
        show_default="looked for",
        help="The state dict under this name, where a checkpoint has several: teacher, model_ema.",
    ),
]

OnlyLayers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        "-l",
        metavar="NAME",
        callback=comma_list(),
        rich_help_panel=PART,
        show_default="all of the run",
        help="Only these layers; a comma list for several.",
    ),
]
OnlyDetector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        "-d",
        metavar="NAME",
        rich_help_panel=PART,
        show_default="the run's first",
        help="Whose concepts, of a run with several detectors.",
    ),
]
AnyDetector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        "-d",
        metavar="NAME",
        rich_help_panel=PART,
        show_default="all of the run",
        help="Only this one, of a run with several.",
    ),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        metavar="WORDS",
        callback=comma_list(),
        rich_help_panel=PART,
        show_default="none",
        help="Count the units whose concept is one of these: car,horse.",
    ),
]
OnlyEpochs = Annotated[
    EpochFilter | None,
    typer.Option(
        "--epochs",
        metavar="LIST",
        parser=parsed(EpochFilter.parse),
        rich_help_panel=PART,
        show_default="all",
        help="Only these: 0,5,10 or 0:30:5 (0, 5, ..., 30) or 20: or first,last.",
    ),
]

Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        parser=parsed(_device),
        rich_help_panel=MACHINE,
        help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1 or mps.",
    ),
]
Precision = Annotated[
    library.Precision,
    typer.Option(
        "--precision",
        metavar="TYPE",
        parser=one_of(library.Precision),
        rich_help_panel=MACHINE,
        help="Of the forward passes: fp32, bf16 or fp16. Scores are always computed in fp32.",
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        metavar="N",
        parser=count,
        rich_help_panel=MACHINE,
        help="Images per forward pass.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        parser=count,
        rich_help_panel=MACHINE,
        show_default="one per usable core",
        help="How many images are decoded at a time.",
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        parser=path,
        rich_help_panel=MACHINE,
        show_default="the user's cache folder",
        help="Where embeddings, decoded images and activations are kept for later runs.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", parser=from_zero, rich_help_panel=MACHINE, help="Of every random choice."
    ),
]

Out = Annotated[
    Path,
    typer.Option(
        "--out", "-o", metavar="DIR", parser=path, rich_help_panel=OUTPUT, help="The folder of the run."
    ),
]
PlotFormats = Annotated[
    list[str] | None,
    typer.Option(
        "--plot-format",
        metavar="TYPE",
        callback=comma_list(library.PlotFormat),
        rich_help_panel=OUTPUT,
        help="File type of the plots: png, svg, pdf, or several.",
    ),
]
PNG = ["png"]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run/--no-dry-run", rich_help_panel=OUTPUT, help="Say what would be done, and do nothing."
    ),
]


# -- from what Typer read to the library's options -----------------------------------------------

CONSOLE_OPTIONS = ("quiet", "verbose", "json", "config")

# The library says `layers`, the command line `--layer`, because there it is written once per layer.
_FIELDS = {
    "layer": "layers",
    "basis": "bases",
    "detector": "detectors",
    "template": "templates",
    "plot_format": "plot_formats",
    "measure": "measures",
    "similarity": "similarities",
    "grid_pooling": "grid_poolings",
    "grid_encoder": "grid_encoders",
}

_SOURCES: dict[str, Source] = {
    "COMMANDLINE": "flag",
    "ENVIRONMENT": "environment",
    "DEFAULT_MAP": "file",
    "DEFAULT": "default",
}


def variable(name: str) -> str:
    """The environment variable of an option."""
    return f"CMON_{name.upper()}"


def source_of(ctx: Any, name: str) -> Source | None:
    """Where the value of an option came from; None where it has none yet."""
    source = ctx.get_parameter_source(name)
    return None if source is None else _SOURCES[source.name]


def sources(ctx: typer.Context) -> dict[str, Source]:
    """Where the value of each option came from."""
    found = {
        param.name: source
        for param in ctx.command.params
        if isinstance(param, TyperOption) and (source := source_of(ctx, param.name)) is not None
    }
    return dict(sorted(found.items()))


def gather(kind: type[T], ctx: typer.Context) -> T:
    """The library's options from the values of a command; every option must have its field.

    An option that was not given and has no default here is left to the library's own.
    """
    names = {item.name for item in fields(kind)}
    given: dict[str, Any] = {}
    for name, value in ctx.params.items():
        if name not in CONSOLE_OPTIONS and value is not None:
            field = name if name in names else _FIELDS.get(name, name)
            given[field] = tuple(value) if isinstance(value, list) else value
    return kind(**given, sources=sources(ctx))
