"""The frame around the commands: finding them, reading their settings, ending them.

A command is a file of this folder with a `command` in it; the table below names it, so that `cmon --help`
needs to import none of them.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TypeVar

import click

from concept_monitor_cli import __version__
from concept_monitor_cli.cli.config import ConfigFile, find_config, settings_for
from concept_monitor_cli.cli.console import Console, OutputClosed
from concept_monitor_cli.cli.help import long_name, option_panels, show_help
from concept_monitor_cli.cli.options import BadValue, Option, console_options
from concept_monitor_cli.errors import CmonError, InputError, Interrupted
from concept_monitor_cli.options import nearest

DONE, FAILED, PART_DONE = 0, 1, 3

# Panel, then name and one line each. A command whose file is not there yet is not shown.
COMMANDS: dict[str, dict[str, str]] = {
    "The main job": {
        "dissect": "Which concept does each unit detect, at every epoch?",
        "embed": "How do the units move through concept space?",
        "watch": "Dissect checkpoints as they land, while training goes on.",
        "submit": "Run a dissect as a SLURM job array.",
    },
    "What the tables say": {
        "stats": "Interpretable units by category, layer and epoch.",
        "units": "The life of every unit: born, changed, died.",
        "retention": "Which concepts survive pruning?",
        "compare": "Two runs side by side.",
        "report": "One HTML page with everything in it.",
        "evaluate": "How good are the labels?",
    },
    "What is there": {
        "checkpoints": "List checkpoints: epoch, architecture, size.",
        "layers": "List the layers of a checkpoint that can be dissected.",
        "cache": "Show, verify or prune the stored intermediate results.",
        "doctor": "What this machine has, what is missing, what to do.",
    },
    "To try": {
        "demo": "Everything, offline, in minutes.",
    },
}

_FOOTER = (
    "Every option is also an environment variable (--top-concepts: CMON_TOP_CONCEPTS) and a key in cmon.toml "
    "(top-concepts = 3). Flags beat environment, environment beats file, file beats default."
)

F = TypeVar("F", bound=Callable[..., Any])


class Session:
    """What one call of `cmon` shares between its parts."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.resumable = False


# -- commands ----------------------------------------------------------------------------------


class Command(click.Command):
    """A command of cmon: reads its settings file, prints its own help, gets a console.

    Args:
        examples: command lines and what they do, for `--help`.
        resumable: whether a rerun continues where a stopped run ended.
    """

    def __init__(
        self, *args: Any, examples: Sequence[tuple[str, str]] = (), resumable: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.resumable = resumable

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """`--help`, which prints in our layout."""
        return _help_option(self.show_help)

    def show_help(self, ctx: click.Context) -> None:
        """Print the help of this command."""
        arguments = [param for param in self.params if isinstance(param, click.Argument)]
        rows = [(_metavar(argument), getattr(argument, "help", "") or "") for argument in arguments]
        panels: list[tuple[str, list[tuple[str, str]]]] = [("Arguments", rows)] if rows else []
        usage = " ".join([ctx.command_path, *(_metavar(argument) for argument in arguments), "[OPTIONS]"])
        show_help(
            _console(ctx).rich(),
            usage=usage,
            text=self.help or "",
            panels=[*panels, *option_panels(self.params)],
            examples=self.examples,
            footer=_FOOTER,
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the settings file before the arguments, so that it can stand in for them."""
        config = None if ctx.resilient_parsing else self._config(ctx, args)
        if config is not None:
            table = ctx.command_path.split()[1]
            ctx.default_map = settings_for(config, table, self.params, _all_options(config, table))
        ctx.meta[_CONFIG] = config
        return super().parse_args(ctx, args)

    def _config(self, ctx: click.Context, args: list[str]) -> ConfigFile | None:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        if given.get("help"):
            return None
        named = given.get("config") or os.environ.get("CMON_CONFIG") or None
        checkpoints = given.get("checkpoints", given.get("checkpoint"))
        # What was not given is either absent or a mark of click's own.
        paths = [checkpoints] if isinstance(checkpoints, str) else checkpoints
        paths = [path for path in paths if isinstance(path, str)] if isinstance(paths, list | tuple) else []
        return find_config(named if isinstance(named, str) else None, paths)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with a console as its first argument."""
        session = _session(ctx)
        values = ctx.params
        console = Console(json=values.pop("json"), quiet=values.pop("quiet"), verbose=values.pop("verbose"))
        values.pop("config")
        session.console = console
        session.resumable = self.resumable
        config = ctx.meta[_CONFIG]
        if config is not None and ctx.default_map:
            keys = ", ".join(sorted(key.replace("_", "-") for key in ctx.default_map))
            console.notice(f"settings from {config.path}: {keys}")
        _warn_of_mistyped_variables(console, self.params)
        with _library_noise(console), _stopped_by_signals():
            return ctx.invoke(self.callback, console, **values) if self.callback else None


_CONFIG = "concept_monitor_cli.config"


class Argument(click.Argument):
    """An argument with a line of help."""

    def __init__(self, *args: Any, help: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = help


class Group(click.Group):
    """A command with subcommands."""

    examples: tuple[tuple[str, str], ...] = ()

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """`--help`, which prints in our layout."""
        return _help_option(self.show_help)

    def show_help(self, ctx: click.Context) -> None:
        """Print the help of this group."""
        rows = [(name, self.line(name)) for name in self.list_commands(ctx)]
        self._show(ctx, [("Commands", rows)])

    def _show(self, ctx: click.Context, panels: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
        depth = len(ctx.command_path.split())
        show_help(
            _console(ctx).rich(),
            usage=f"{ctx.command_path} COMMAND [OPTIONS]",
            text=self.help or "",
            panels=panels,
            # A command that is not there yet has no example either.
            examples=[e for e in self.examples if e[0].split()[depth] in self.list_commands(ctx)],
            footer=f"`{ctx.command_path} COMMAND --help` says more.",
        )

    def line(self, name: str) -> str:
        """The one-line help of a subcommand."""
        return (self.commands[name].help or "").strip().split("\n")[0]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without arguments, show the help."""
        if not args and not ctx.resilient_parsing:
            self.show_help(ctx)
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The named subcommand.

        Raises:
            InputError: there is none of that name.
        """
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            alike = nearest(name, self.list_commands(ctx))
            help_line = f"`{ctx.command_path} --help` lists the commands"
            raise InputError(
                f"there is no command {name!r}",
                where=ctx.command_path,
                hint=f"did you mean {' or '.join(alike)}?" if alike else help_line,
            )
        return name, command, args[1:]


class Root(Group):
    """`cmon` itself. Its commands are imported when they are used."""

    examples = (
        ("cmon demo", "everything, offline, in minutes"),
        ("cmon dissect ckpts/ --layer layer4", "a concept for every unit, at every epoch"),
        ("cmon embed --anchors windmill,field", "how the units moved"),
    )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands that are there, in the order of the table."""
        return [name for panel in COMMANDS.values() for name in panel if _module_exists(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        return load_command(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def line(self, name: str) -> str:
        """The one-line help from the table."""
        return next(panel[name] for panel in COMMANDS.values() if name in panel)

    def show_help(self, ctx: click.Context) -> None:
        """Print the commands in panels."""
        present = self.list_commands(ctx)
        panels = [
            (title, [(name, line) for name, line in rows.items() if name in present])
            for title, rows in COMMANDS.items()
        ]
        self._show(ctx, [panel for panel in panels if panel[1]])


def _module_exists(name: str) -> bool:
    return importlib.util.find_spec(f"concept_monitor_cli.cli.{name}") is not None


def load_command(name: str) -> click.Command:
    """Import the file of a command."""
    command: click.Command = importlib.import_module(f"concept_monitor_cli.cli.{name}").command
    return command


def cmon_command(
    *, examples: Sequence[tuple[str, str]], resumable: bool = False, name: str = "command"
) -> Callable[[Callable[..., int | None]], Command]:
    """Make a function a command; its docstring is the help.

    The function gets the console, then one keyword per option, and returns an exit code, or None for 0.
    """

    def decorate(function: Callable[..., int | None]) -> Command:
        function = console_options(function)
        made = click.command(name, cls=Command, examples=examples, resumable=resumable)(function)
        assert isinstance(made, Command)
        return made

    return decorate


def argument(*names: str, **settings: Any) -> Callable[[F], F]:
    """A positional argument with a line of help."""
    return click.argument(*names, cls=Argument, **settings)


def _help_option(show: Callable[[click.Context], None]) -> click.Option:
    def callback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            show(ctx)
            ctx.exit()

    return Option(
        ["--help", "-h"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=callback,
        hidden=True,
        help="Show this.",
    )


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        _console(ctx).print(f"cmon {__version__}")
        ctx.exit()


root = Root(
    name="cmon",
    help="""Concept-Monitor: which human concept does each unit of a network detect, and how do the units
    move through concept space while training goes on?""",
    params=[
        Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_version,
            help="The version.",
        )
    ],
)


def _all_options(config: ConfigFile, table: str) -> Mapping[str, list[Option]]:
    """The options of every command that a settings file may speak of, by table name."""
    return {
        name: [
            param
            for leaf in _leaves(load_command(name))
            for param in leaf.params
            if isinstance(param, Option)
        ]
        for panel in COMMANDS.values()
        for name in panel
        if _module_exists(name)
    }


def _leaves(command: click.Command) -> Iterator[click.Command]:
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from _leaves(child)
    else:
        yield command


def _metavar(argument: click.Argument) -> str:
    return argument.metavar or (argument.name or "").upper()


def _session(ctx: click.Context) -> Session:
    session = ctx.find_object(Session)
    assert session is not None
    return session


def _console(ctx: click.Context) -> Console:
    return _session(ctx).console


# -- around a running command ------------------------------------------------------------------


def _warn_of_mistyped_variables(console: Console, params: Sequence[click.Parameter]) -> None:
    """`CMON_LAYERS=layer4` does nothing; say so, where it looks like a slip."""
    known = sorted({param.envvar for param in params if isinstance(param.envvar, str)})
    for variable in sorted(os.environ):
        if not variable.startswith("CMON_") or variable in known:
            continue
        plural = next((name for name in (f"{variable}S", variable.removesuffix("S")) if name in known), None)
        # Variables of other commands are no slips, and a shell may hold some for its own use.
        swapped = next((name for name in known if sorted(name) == sorted(variable)), None)
        if slip := plural or swapped:
            console.warning(f"{variable} is not an option: did you mean {slip}?")


@contextmanager
def _library_noise(console: Console) -> Iterator[None]:
    """Keep what libraries print away from the result, and their warnings for `--verbose`."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(Exception):
                console.detail(f"{record.name}: {record.getMessage()}")

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.showwarning = lambda message, category, filename, lineno, *rest: console.detail(
                f"{category.__name__}: {message} ({filename}:{lineno})"
            )
            yield
    finally:
        logging.getLogger().removeHandler(handler)


class _Stopped(KeyboardInterrupt):
    """A signal asked us to end. Not an `Exception`, so that no library swallows it."""


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 (SLURM's early warning) end the work as Ctrl-C does, tidily."""

    def stop(number: int, frame: object) -> None:
        # Once is enough: another one must not hit us while we tidy up. Ctrl-C still does.
        for caught in before:
            signal.signal(caught, signal.SIG_IGN)
        raise _Stopped(signal.Signals(number).name)

    before: dict[int, Any] = {}
    for name in ("SIGTERM", "SIGUSR1"):
        number = getattr(signal, name, None)
        # Signals can only be caught in the main thread.
        if number is not None:
            with suppress(ValueError):
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- the entry point ---------------------------------------------------------------------------


def run(args: Sequence[str], program: Group | None = None) -> int:
    """Run one command line and return its exit code; every error is printed here.

    Args:
        args: what stands after the program's name.
        program: the commands; all of cmon's where it is None.
    """
    session = Session(_first_console(args))
    try:
        code = _run(args, session, program or root)
        session.console.close()
    except OutputClosed:
        # The reader has seen enough. Python must not complain of it while shutting down.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return code


def _run(args: Sequence[str], session: Session, program: Group) -> int:
    try:
        with program.make_context("cmon", list(args), obj=session) as ctx:
            code = program.invoke(ctx)
            return code if isinstance(code, int) else DONE
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except CmonError as error:
        return _report(session, error)
    except click.ClickException as error:
        return _report(session, _usage_error(error))
    except (KeyboardInterrupt, click.Abort) as stop:
        return _report(session, _interrupted(stop, session))
    except OutputClosed:
        raise
    except Exception as error:
        known = _foreseen(error)
        if known is not None:
            known.__cause__ = error
            return _report(session, known)
        session.console.internal_error(error)
        return FAILED


def _report(session: Session, error: CmonError) -> int:
    session.console.error(error)
    return error.exit_code


def _first_console(args: Sequence[str]) -> Console:
    """The console for errors in the arguments themselves, before they are understood."""
    flags = list(args[: args.index("--")] if "--" in args else args)

    def wanted(name: str, short: str = "") -> bool:
        off = os.environ.get(f"CMON_{name.upper()}", "").lower() in ("", "0", "false", "no", "off", "f", "n")
        return f"--{name}" in flags or (short in flags if short else False) or not off

    return Console(json=wanted("json"), quiet=wanted("quiet", "-q"), verbose=wanted("verbose", "-v"))


def _interrupted(stop: BaseException, session: Session) -> Interrupted:
    name = str(stop) if isinstance(stop, _Stopped) else "SIGINT"
    hint = "run the same command again: it continues where this one ended" if session.resumable else None
    return Interrupted(f"stopped by {name}", hint=hint)


def _usage_error(error: click.ClickException) -> InputError:
    """One of click's errors in our words."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "cmon"
    help_hint = f"`{path} --help` lists the options"
    if isinstance(error, click.NoSuchOption):
        if path == "cmon":
            hint = f"options come after the command: cmon COMMAND {error.option_name}"
        else:
            params = ctx.command.params if ctx is not None else []
            names = [name for param in params for name in (*param.opts, *param.secondary_opts)]
            alike = nearest(error.option_name, [name for name in names if name.startswith("--")])
            hint = f"did you mean {' or '.join(alike)}?" if alike else help_hint
        return InputError(f"there is no option {error.option_name}", where=path, hint=hint)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        param = error.param
        name = _label(param)
        examples = getattr(ctx.command, "examples", ()) if ctx is not None else ()
        example = f"for example: {examples[0][0]}" if examples else help_hint
        return InputError(f"{name} is missing", where=path, hint=example)
    if isinstance(error, click.BadParameter) and error.param is not None:
        param = error.param
        source = ctx.get_parameter_source(param.name or "") if ctx is not None else None
        where = str(param.envvar) if getattr(source, "name", "") == "ENVIRONMENT" else _label(param)
        advice = error.hint if isinstance(error, BadValue) else None
        return InputError(error.message.rstrip("."), where=where, hint=advice or help_hint)
    return InputError(error.format_message().rstrip("."), where=path, hint=help_hint)


def _label(param: click.Parameter) -> str:
    return _metavar(param).rstrip(".") if isinstance(param, click.Argument) else long_name(param)


_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


def _foreseen(error: Exception) -> CmonError | None:
    """What the system says no to, in the words of an error of ours; None for bugs."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        if error.errno in _FULL:
            return CmonError(
                "there is no room left on the disk (or your quota is used up)",
                where=str(error.filename),
                hint="make room (`cmon cache prune`), or use another folder (--cache-dir, --out); then rerun",
            )
        return CmonError(f"{error.strerror or type(error).__name__}", where=str(error.filename))
    if isinstance(error, OSError) and error.errno in _FULL:
        return CmonError(
            "there is no room left on the disk (or your quota is used up)",
            hint="make room (`cmon cache prune`), or use another folder (--cache-dir, --out); then rerun",
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        device = "the GPU's memory" if type(error).__name__ == "OutOfMemoryError" else "memory"
        return CmonError(f"{device} is used up", hint="try a smaller --batch-size, or fewer layers at a time")
    return None
