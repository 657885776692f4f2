"""An option is declared once: flag, variable, key, help and type are made of its field."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.main import get_command

from concept_monitor_cli.cli.app import cmon_app, cmon_command, run
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import offer, parameters
from concept_monitor_cli.options import Options, declaration, reading
from concept_monitor_cli.options.common import ReadingOptions
from concept_monitor_cli.options.declare import METHOD, PANELS, PART, argument, declare, option
from concept_monitor_cli.options.dissect import DissectOptions, SubmitOptions, WatchOptions
from concept_monitor_cli.options.evaluate import EvaluateOptions
from concept_monitor_cli.options.values import count, duration, grey_range, path, unit_list

Fruit = Literal["apple", "pear"]
COMMANDS = [
    *(DissectOptions, WatchOptions, SubmitOptions, EvaluateOptions, ReadingOptions),
    *(kind for name, kind in vars(reading).items() if name.endswith("Options")),
]


@dataclass(frozen=True, kw_only=True)
class Trial(Options):
    """One option of every kind."""

    without = ("unwanted",)

    must: Path = field(metadata=declare("Must.", argument=True, metavar="MUST", read=path))
    more: tuple[Path, ...] = argument((), "More.", metavar="[MORE]...", read=path)
    switch: bool = option(True, "Switch.", panel=METHOD)
    number: int = option(3, "Number.", panel=METHOD, metavar="N", read=count)
    wait: float | None = option(None, "Wait.", panel=METHOD, metavar="TIME", read=duration, shown="never")
    fruit: Fruit = option("apple", "Fruit.", panel=METHOD, metavar="NAME")
    baskets: tuple[Fruit, ...] = option(
        ("pear",), "Baskets.", panel=PART, name="basket", flags=("--basket", "-b"), metavar="NAME"
    )
    words: tuple[str, ...] = option((), "Words.", panel=PART, metavar="WORDS", shown="none")
    units: tuple[int, ...] = option((), "Units.", panel=PART, metavar="LIST", read=unit_list, shown="none")
    greys: tuple[float, float] | None = option(
        None, lambda: "Made when asked for.", panel=PART, metavar="A,B", read=grey_range, shown="none"
    )
    unwanted: int = option(7, "Of no use here.", panel=PART, metavar="N", read=count)


def program(got: list[Trial]) -> Any:
    app = cmon_app()

    @app.callback()
    def cmon() -> None:
        """Makes it a group, although there is one command only."""

    @cmon_command(app, "trial", examples=[("cmon trial there", "try")])
    def trial(console: Console, options: Trial) -> None:
        """Try."""
        got.append(options)

    return get_command(app)


def asked(*args: str) -> Trial:
    """What a command gets that has these options."""
    got: list[Trial] = []
    assert run(["trial", "there", *args], program(got)) == 0
    return got[0]


def test_the_defaults_are_those_of_the_fields() -> None:
    found = asked()
    for item in fields(Trial):
        if item.name not in ("must", "sources"):
            assert getattr(found, item.name) == item.default, item.name


def test_flags_fill_the_fields_with_values_of_their_types() -> None:
    found = asked(
        *("a", "b", "--no-switch", "--number", "5", "--wait", "2min", "--fruit", "pear"),
        *("-b", "apple,pear", "--words", "hot dog,cat", "--words", "cow", "--units", "1,4-6"),
        *("--units", "9", "--greys", "0,10"),
    )
    assert (found.must, found.more) == (Path("there"), (Path("a"), Path("b")))
    assert (found.switch, found.number, found.wait, found.fruit) == (False, 5, 120.0, "pear")
    assert found.baskets == ("apple", "pear")
    assert found.words == ("hot dog", "cat", "cow")
    assert found.units == (1, 4, 5, 6, 9)
    assert found.greys == (0.0, 10.0)
    assert found.sources["basket"] == "flag"


def test_variables_and_keys_go_by_the_name_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("cmon.toml").write_text(
        'basket = "apple"\nwait = "2min"\nunits = [3, 4]\ngreys = [1, 2]\n', encoding="utf-8"
    )
    monkeypatch.setenv("CMON_NUMBER", "9")
    found = asked()
    assert (found.baskets, found.wait, found.units, found.greys) == (("apple",), 120.0, (3, 4), (1.0, 2.0))
    assert found.number == 9
    assert (found.sources["basket"], found.sources["number"]) == ("file", "environment")
    # A time that is written as text may be a number of seconds, too.
    Path("cmon.toml").write_text("wait = 90\n", encoding="utf-8")
    assert asked().wait == 90


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--number", "0"), "'0' is not a whole number from 1"),
        (("--fruit", "aple"), "did you mean apple?"),
        (("--basket", "plum"), "choose from apple, pear"),
        (("--units", "x"), "'x' is not a whole number from 0"),
        (("--greys", "5,1"), "the smaller first"),
        (("--unwanted", "1"), "--unwanted"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_write(
    args: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trial", "there", *args], program([])) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_help_is_asked_for_when_it_is_shown_and_panels_have_their_order() -> None:
    made = parameters(Trial)
    panels = [param.annotation.__metadata__[0].rich_help_panel for param in made]
    options = [panel for panel in panels if panel is not None]
    assert options == sorted(options, key=PANELS.index)
    assert panels[:2] == [None, None], "arguments come first"
    greys = next(param for param in made if param.name == "greys")
    assert greys.annotation.__metadata__[0].help == "Made when asked for."


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_every_field_of_every_command_is_declared_once(kind: type[Options]) -> None:
    names = []
    for item in fields(kind):
        declared = declaration(item)
        assert (declared is None) == (item.name == "sources"), item.name
        if (offered := offer(kind, item)) is not None:
            names.append(offered.name_of(item.name))
            assert offered.argument or offered.panel in PANELS
    assert len(names) == len(set(names))
    # What is left out was there to be left out.
    assert set(kind.without) <= {item.name for item in fields(kind)}
