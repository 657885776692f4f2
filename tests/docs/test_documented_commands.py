"""Every command line in the documents is one that `cmon` understands. None of them is run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from concept_monitor_cli.cli.app import root
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "sample_configs").rglob("*.md")),
]


def commands(text: str) -> list[str]:
    """The command lines in a page: those in indented blocks, and those of several words in running text."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"^ {4,}(cmon .+)$", text, re.MULTILINE)
    inline = re.findall(r"(?<!`)`(cmon [^`]+)`", text)
    # A mention in running text, `cmon dissect`, is not a whole command line.
    inline = [command for command in inline if not re.fullmatch(r"cmon [\w ]+", command)]
    whole = [" ".join(command.split()) for command in blocks + inline]
    # Dots stand for what is left out.
    return [command for command in dict.fromkeys(whole) if "..." not in command]


DOCUMENTED = [
    pytest.param(command, id=f"{page.stem}: {command}")
    for page in PAGES
    for command in commands(page.read_text("utf-8"))
]


def parse(command: str) -> None:
    """Read a command line as `cmon` does, up to the point where it would do something."""
    words = shlex.split(command, comments=True)[1:]
    group: Any = root
    context: Any = typer.Context(root, info_name="cmon", obj=Console())
    while hasattr(group, "commands") or group is root:
        if words[0].startswith("-"):  # a switch of a group, as --install-completion
            break
        name, group, words = group.resolve_command(context, words)
        context = group.make_context(name, list(words), parent=context)
        if not hasattr(group, "commands"):
            return
    known = {option for param in group.params for option in (*param.opts, *param.secondary_opts)}
    if words[0] not in known | {"--help", "--status"}:
        raise InputError(f"there is no option {words[0]}", where=command)


@pytest.mark.parametrize("command", DOCUMENTED)
def test_every_documented_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no settings file is there
    parse(command)


def test_an_option_that_does_not_exist_is_found() -> None:
    with pytest.raises(InputError):
        parse("cmon dissect ckpts --layer x --no-such-option 3")
    with pytest.raises(InputError):
        parse("cmon disect ckpts")
    assert len(DOCUMENTED) > 40
