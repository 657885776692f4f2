"""The frame around the commands: finding them, giving them a console, ending them.

A command is a file of this folder with a Typer application `app` in it; the table below names it, so that
`cmon --help` needs to import none of them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from typing import Annotated, Any, TypeAlias, TypeVar, cast, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.main import get_command

from concept_monitor_cli import __version__
from concept_monitor_cli.cli.config import settings_in
from concept_monitor_cli.cli.console import Console, OutputClosed
from concept_monitor_cli.cli.options import (
    CONSOLE_OPTIONS,
    BadValue,
    Config,
    Json,
    Quiet,
    Verbose,
    gather,
    parameters,
    source_of,
    variable,
)
from concept_monitor_cli.cli.running import (
    foreseen,
    library_noise,
    stopped_by,
    stopped_by_signals,
    warn_of_mistyped_variables,
)
from concept_monitor_cli.errors import CmonError, InputError, Interrupted
from concept_monitor_cli.options import Options, nearest
from concept_monitor_cli.options.declare import OUTPUT

# Typer brings its own copy of click and exports only some of its errors: the others stand beside them.
_errors = sys.modules[typer.BadParameter.__module__]

DONE, FAILED, PART_DONE = 0, 1, 3

HELP = ["--help", "-h"]

# Panel, then name and one line each. A command whose file is not there yet is not shown.
COMMANDS: dict[str, dict[str, str]] = {
    "The main job": {
        "run": "From checkpoints to the page, everything that fits, in one.",
        "dissect": "Which concept does each unit detect, at every epoch?",
        "embed": "How do the units move through concept space?",
        "watch": "Dissect checkpoints as they land, while training goes on.",
        "submit": "Run a dissect as a SLURM job array.",
    },
    "What the tables say": {
        "stats": "Interpretable units by category, layer and epoch.",
        "units": "The life of every unit: born, changed, died.",
        "search": "Any text: which units are nearest to it?",
        "dynamics": "When has each layer become what it will be?",
        "factors": "Images, pixels and units clustered by the same factors.",
        "picture": "The image that excites a unit most, at every epoch.",
        "atlas": "A map of what a layer tells apart, a picture for each place.",
        "tuning": "Which angle of gratings, arcs and corners do units look for?",
        "attribute": "Where in an image does the answer come from?",
        "explain": "What is where in an image, and what it says for which class.",
        "vectors": "Where do concepts lie in a layer, and which classes use them?",
        "evolutions": "Which change of which unit changed a class?",
        "circuits": "What is each unit fed by, and each concept built of?",
        "ablate": "What is lost when the units of a concept are cut out?",
        "failures": "Which units tell failed from succeeded cases of a class?",
        "retention": "Which concepts survive pruning?",
        "compare": "Two runs side by side.",
        "report": "One HTML page with everything in it.",
        "evaluate": "How good are the labels?",
    },
    "What is there": {
        "checkpoints": "List checkpoints: epoch, architecture, size.",
        "layers": "List the layers of a checkpoint that can be dissected.",
        "cache": "Show, verify or prune the stored intermediate results.",
        "fetch": "Download a probing set or an encoder.",
        "doctor": "What this machine has, what is missing, what to do.",
    },
    "To try": {
        "demo": "Everything, offline, in minutes.",
    },
}

_FOOTER = (
    "Every option is also an environment variable (--top-concepts: CMON_TOP_CONCEPTS) and a key in cmon.toml "
    "(top-concepts = 3). Flags beat environment, environment beats file, file beats default. --no-NAME "
    "undoes a switch."
)

Examples = Sequence[tuple[str, str]]
T = TypeVar("T", bound=Options)
Work: TypeAlias = Callable[[Console, T], int | None]


# -- commands ----------------------------------------------------------------------------------


@contextmanager
def _parsing(ctx: Any) -> Iterator[None]:
    """Around Typer while it reads arguments and prints help: errors in our words, and readers may leave."""
    try:
        yield
    except _errors.UsageError as error:
        raise _usage_error(error, ctx) from error
    except BrokenPipeError as error:
        raise OutputClosed from error
    except SystemExit as stop:
        # rich ends the process with 1 where nobody reads on; Typer with 0 when it has shown a completion.
        if stop.code:
            raise OutputClosed from stop
        raise


class Command(TyperCommand):
    """A command of cmon. What its arguments lack or have too much is an `InputError`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer, but every error is ours."""
        with _parsing(ctx):
            return super().parse_args(ctx, args)

    def get_help_option(self, ctx: Any) -> Any:
        """`--help` among the options that say what is printed."""
        option = _switch(super().get_help_option(ctx))
        option.rich_help_panel = OUTPUT
        return option

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As Typer, without what goes by a rule that stands at the end of the page."""
        shown = copy(self)
        shown.params = [_in_short(param) for param in self.params]
        super(Command, shown).format_help(ctx, formatter)


def _switch(option: Any) -> Any:
    """One of Typer's own switches. Their default is None; to make that a truth value, it imports pydantic."""
    option.default, option.metavar = False, ""
    return option


def _in_short(param: Any) -> Any:
    """A parameter without its variable (`CMON_NAME`), a switch also without its opposite (`--no-name`)."""
    param = copy(param)
    param.show_envvar = False
    if getattr(param, "is_flag", False):
        # A column for the opposites would leave too little room for the words.
        param.secondary_opts, param.metavar, param.show_default = [], "", False
    return param


class Group(TyperGroup):
    """A command with subcommands."""

    def get_help_option(self, ctx: Any) -> Any:
        """As Typer, without the type of a switch."""
        return _switch(super().get_help_option(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer, but every error is ours, and help without arguments is no error."""
        with _parsing(ctx):
            return super().parse_args(ctx, args or ["--help"])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The named subcommand.

        Raises:
            InputError: there is none of that name.
        """
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            alike = nearest(args[0], known)
            listed = f"`{ctx.command_path} --help` lists the commands"
            few = f"there are: {', '.join(f'{ctx.command_path} {name}' for name in known)}"
            raise InputError(
                f"there is no command {args[0]!r}",
                where=ctx.command_path,
                hint=f"did you mean {' or '.join(alike)}?" if alike else few if len(known) <= 4 else listed,
            )
        return super().resolve_command(ctx, args)


class Root(Group):
    """`cmon` itself. Its commands are imported when they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands that are there, in the order of the table."""
        return [name for panel in COMMANDS.values() for name in panel if _module_exists(name)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command."""
        return load_command(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help, with the lines of the table in the place of the commands."""
        present = self.list_commands(ctx)
        lines = [
            TyperCommand(name, help=line, rich_help_panel=panel)
            for panel, rows in COMMANDS.items()
            for name, line in rows.items()
            if name in present
        ]
        params = [_in_short(param) for param in self.params]
        listed = Group(name=self.name, commands=lines, params=params, help=self.help, epilog=self.epilog)
        listed.format_help(ctx, formatter)


def _module_exists(name: str) -> bool:
    return importlib.util.find_spec(f"concept_monitor_cli.cli.{name}") is not None


@functools.cache
def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import the file of a command."""
    module = importlib.import_module(f"concept_monitor_cli.cli.{name}")
    return cast(TyperCommand | TyperGroup, get_command(module.app))


def cmon_app(*, help: str | None = None, examples: Examples = ()) -> typer.Typer:
    """The Typer application of a file: with one command in it the command itself, with several their group.

    Args:
        help: what the group is about.
        examples: of the group: command lines and what they do.
    """
    return typer.Typer(
        cls=Group,
        context_settings={"help_option_names": HELP},
        help=None if help is None else _paragraphs(help),
        epilog=_epilog(examples, "`--help` after the command says more.") if examples else None,
        add_completion=False,
        rich_markup_mode="rich",
    )


def cmon_command(
    app: typer.Typer, name: str, *, examples: Examples, resumable: bool = False
) -> Callable[[Work[T]], Work[T]]:
    """Make a function a command of a Typer application; its docstring is the help.

    The function gets a console and its options, whose class it names as their type. It returns an exit code,
    or None for 0.

    Args:
        app: where to.
        name: of the command.
        examples: command lines and what they do, for `--help`.
        resumable: whether a rerun continues where a stopped run ended.
    """

    def decorate(function: Work[T]) -> Work[T]:
        register = app.command(
            name,
            cls=Command,
            help=_paragraphs(function.__doc__ or ""),
            epilog=_epilog(examples, _FOOTER),
            # Of the command, not of `cmon`, so that the command's name is no part of the variables.
            context_settings={"auto_envvar_prefix": "CMON", "help_option_names": HELP},
        )
        framed = _with_console(function, resumable)
        framed.examples = examples  # type: ignore[attr-defined]
        register(framed)
        return function

    return decorate


def _with_console(function: Work[T], resumable: bool) -> Callable[..., int | None]:
    """The function as Typer calls it: with its options and those of the console in its signature."""

    def console_options(
        ctx: typer.Context,
        quiet: Quiet = False,
        verbose: Verbose = False,
        json: Json = False,
        config: Config = None,
    ) -> None:
        """What every command takes."""

    @functools.wraps(function)
    def framed(ctx: typer.Context, **values: Any) -> int | None:
        console = ctx.find_object(Console) or Console()
        console.quiet, console.verbose, console.json = (values[name] for name in CONSOLE_OPTIONS[:3])
        file = settings_in(ctx)
        if file.values:
            keys = ", ".join(sorted(name.replace("_", "-") for name in file.values))
            console.notice(f"settings from {file.path}: {keys}")
        warn_of_mistyped_variables(console, [variable(param.name) for param in ctx.command.params])
        with library_noise(console), stopped_by_signals(resumable):
            return function(console, gather(kind, ctx))

    kind = get_type_hints(function)["options"]
    common = inspect.signature(console_options, eval_str=True).parameters.values()
    framed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*parameters(kind), *(param.replace(kind=inspect.Parameter.KEYWORD_ONLY) for param in common)]
    )
    return framed


def _paragraphs(text: str) -> str:
    """A docstring with a line for each paragraph: the terminal breaks them."""
    return "\n\n".join(" ".join(block.split()) for block in _escape(inspect.cleandoc(text)).split("\n\n"))


def _epilog(examples: Examples, footer: str) -> str:
    lines = [
        line for command, meaning in examples for line in (f"  [dim]# {meaning}[/]", f"  {_escape(command)}")
    ]
    return "\n".join(["[bold]Examples[/]", *lines, "", _escape(footer)])


def _escape(text: str) -> str:
    """Brackets are meant as such, not as markup."""
    return text.replace("[", r"\[")


def _version(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        typer.echo(f"cmon {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="cmon",
    cls=Root,
    context_settings={"help_option_names": HELP},
    epilog=_epilog(
        [
            ("cmon demo", "everything, offline, in minutes"),
            ("cmon run ckpts/ --probe photos/", "everything about your own checkpoints, and a page"),
            (
                "cmon dissect ckpts/ --layer layer4 --probe photos/",
                "a concept for every unit, at every epoch",
            ),
        ],
        "`cmon COMMAND --help` says more.",
    ),
    rich_markup_mode="rich",
)


@app.callback(
    help=_paragraphs(
        """Concept-Monitor: which human concept does each unit of a network detect, and how do the units move
        through concept space while training goes on?"""
    )
)
def cmon(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """What stands before the command."""


root = get_command(app)
for _param in root.params:
    _switch(_param)


# -- the entry point ---------------------------------------------------------------------------


def run(args: Sequence[str], program: Any = None) -> int:
    """Run one command line and return its exit code; every error is printed here.

    Args:
        args: what stands after the program's name.
        program: the commands; all of cmon's where it is None.
    """
    console = _first_console(args)
    try:
        code = _run(args, console, program or root)
        console.close()
    except OutputClosed:
        # The reader has seen enough. Python must not complain of it while shutting down.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return code


def _run(args: Sequence[str], console: Console, program: Any) -> int:
    # Not Typer's own `main`, which has exit codes of its own for signals and closed pipes.
    try:
        with program.make_context("cmon", list(args), obj=console) as ctx:
            code = program.invoke(ctx)
            return code if isinstance(code, int) else DONE
    except typer.Exit as stop:
        return stop.exit_code
    except CmonError as error:
        return _report(console, error)
    except KeyboardInterrupt as error:
        return _report(console, Interrupted(stopped_by(error)))
    except OutputClosed:
        raise
    except Exception as error:
        known = foreseen(error)
        if known is not None:
            known.__cause__ = error
            return _report(console, known)
        console.internal_error(error)
        return FAILED


def _report(console: Console, error: CmonError) -> int:
    console.error(error)
    return error.exit_code


def _first_console(args: Sequence[str]) -> Console:
    """The console for errors in the arguments themselves, before they are understood."""
    flags = list(args[: args.index("--")] if "--" in args else args)

    def wanted(name: str, short: str = "") -> bool:
        off = os.environ.get(f"CMON_{name.upper()}", "").lower() in ("", "0", "false", "no", "off", "f", "n")
        return f"--{name}" in flags or (short in flags if short else False) or not off

    return Console(json=wanted("json"), quiet=wanted("quiet", "-q"), verbose=wanted("verbose", "-v"))


def _usage_error(error: Any, ctx: Any) -> InputError:
    """One of Typer's errors in our words."""
    path = ctx.command_path
    help_hint = f"`{path} --help` lists the options"
    param = getattr(error, "param", None)
    if isinstance(error, _errors.NoSuchOption):
        if isinstance(ctx.command, TyperGroup):
            hint = f"options come after the command: {path} COMMAND {error.option_name}"
        else:
            names = [name for param in ctx.command.params for name in (*param.opts, *param.secondary_opts)]
            alike = nearest(error.option_name, [name for name in names if name.startswith("--")])
            hint = f"did you mean {' or '.join(alike)}?" if alike else help_hint
        return InputError(f"there is no option {error.option_name}", where=path, hint=hint)
    if isinstance(error, _errors.MissingParameter) and param is not None:
        examples = getattr(ctx.command.callback, "examples", ())
        example = f"for example: {examples[0][0]}" if examples else help_hint
        return InputError(f"{_label(param)} is missing", where=path, hint=example)
    if isinstance(error, typer.BadParameter) and param is not None:
        message = error.message.rstrip(".")
        hint = (error.hint if isinstance(error, BadValue) else None) or help_hint
        source = source_of(ctx, param.name)
        if source == "file":
            settings = settings_in(ctx)
            return InputError(f"{settings.labels[param.name]}: {message}", where=settings.path, hint=hint)
        where = variable(param.name) if source == "environment" else _label(param)
        return InputError(message, where=where, hint=hint)
    return InputError(error.format_message().rstrip("."), where=path, hint=help_hint)


def _label(param: Any) -> str:
    """What the user calls it: the metavar of an argument, the first long name of an option."""
    if isinstance(param, TyperArgument):
        return param.metavar or param.name.upper()
    return str(next((name for name in param.opts if name.startswith("--")), param.opts[0]))
