"""Where a value comes from: flags beat environment, environment beats file, file beats default."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperOption

from concept_monitor_cli.cli.app import COMMANDS, load_command, root
from concept_monitor_cli.cli.console import Console
from concept_monitor_cli.cli.options import gather
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import CommonOptions, DissectOptions, EmbedOptions, EpochFilter, Shard

PRESENT = root.list_commands(typer.Context(root))


def context(*args: str) -> Any:
    parent = typer.Context(root, info_name="cmon", obj=Console())
    return load_command(args[0]).make_context(args[0], list(args[1:]), parent=parent)


def leaves(name: str) -> list[Any]:
    """The command, or all commands of a group."""
    command: Any = load_command(name)
    return list(command.commands.values()) if hasattr(command, "commands") else [command]


def parse(*args: str) -> DissectOptions | EmbedOptions:
    kind: type[DissectOptions | EmbedOptions] = DissectOptions if args[0] == "dissect" else EmbedOptions
    return gather(kind, context(*args))


def dissect(*args: str) -> DissectOptions:
    options = parse("dissect", "ckpts", *args)
    assert isinstance(options, DissectOptions)
    return options


def embed(*args: str) -> EmbedOptions:
    options = parse("embed", *args)
    assert isinstance(options, EmbedOptions)
    return options


def write(text: str, path: str = "cmon.toml") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def refused(*args: str) -> InputError:
    with pytest.raises(InputError) as caught:
        dissect(*args)
    return caught.value


# -- precedence --------------------------------------------------------------------------------


def test_flag_beats_environment_beats_command_table_beats_file_beats_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (dissect().beam, dissect().sources["beam"]) == (10, "default")
    write("beam = 2")
    assert (dissect().beam, dissect().sources["beam"]) == (2, "file")
    write("beam = 2\n[dissect]\nbeam = 3")
    assert (dissect().beam, dissect().sources["beam"]) == (3, "file")
    monkeypatch.setenv("CMON_BEAM", "4")
    assert (dissect().beam, dissect().sources["beam"]) == (4, "environment")
    assert (dissect("--beam", "5").beam, dissect("--beam", "5").sources["beam"]) == (5, "flag")


def test_switches_can_be_undone_by_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    write("save-scores = true")
    assert dissect().save_scores
    assert not dissect("--no-save-scores").save_scores
    monkeypatch.setenv("CMON_SAVE_SCORES", "0")
    assert not dissect().save_scores


def test_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dissect("--layer", "a,b", "--layer", "c", "-l", "a").layers == ("a", "b", "c")
    monkeypatch.setenv("CMON_LAYER", "d, e")
    assert dissect().layers == ("d", "e")
    monkeypatch.delenv("CMON_LAYER")
    write('layer = ["f", "g"]')
    assert dissect().layers == ("f", "g")
    write('layer = "h,i"')
    assert dissect().layers == ("h", "i")


def test_commas_inside_a_list_of_the_file_belong_to_the_word() -> None:
    write('anchors = ["salt, pepper", "sea"]\nunits = [3, 1]')
    assert embed().anchors == ("salt, pepper", "sea")
    assert embed().units == (3, 1)


def test_templates_keep_their_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dissect("--template", "a {}, outdoors").templates == ("a {}, outdoors",)
    monkeypatch.setenv("CMON_TEMPLATE", "a {}, outdoors\nthe {}")
    assert dissect().templates == ("a {}, outdoors", "the {}")


def test_values_of_every_kind_from_file() -> None:
    write(
        """
        mean = [0.5, 0.4, 0.3]
        std = 1
        crop = 1
        epochs = "0:30:5"
        shard = "2/8"
        out = "~/runs/a"
        plot_format = ["pdf", "svg"]   # underscores are as good as hyphens
        detector = "compositional"
        """
    )
    options = dissect()
    assert options.mean == (0.5, 0.4, 0.3)
    assert options.std == (1.0, 1.0, 1.0)
    assert options.crop == 1.0
    assert options.epochs == EpochFilter.parse("0:30:5")
    assert options.shard == Shard(2, 8)
    assert options.out == Path.home() / "runs" / "a"
    assert options.plot_formats == ("pdf", "svg")
    assert options.detectors == ("compositional",)


# -- which file --------------------------------------------------------------------------------


def test_named_file_beats_the_one_here_beats_the_one_beside_the_checkpoints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("beam = 3", "ckpts/cmon.toml")
    assert dissect().beam == 3
    write("beam = 4")
    assert dissect().beam == 4
    write("beam = 5", "other.toml")
    assert dissect("--config", "other.toml").beam == 5
    monkeypatch.setenv("CMON_CONFIG", "other.toml")
    assert dissect().beam == 5


@pytest.mark.parametrize("spec", ["runs/a", "runs/a/e1.pt", "runs/a/*.pt", "runs/a/e[0-9].pt"])
def test_beside_means_in_the_folder_of_the_checkpoints(spec: str) -> None:
    write("beam = 3", "runs/a/cmon.toml")
    write("", "runs/a/e1.pt")
    options = parse("dissect", spec)
    assert isinstance(options, DissectOptions)
    assert options.beam == 3


def test_a_file_found_beside_the_checkpoints_cannot_run_code_or_delete() -> None:
    for line in ("trust-pickle = true", 'model = "net.py:make"', "overwrite = true"):
        for text in (line, f"[dissect]\n{line}"):
            write(text, "ckpts/cmon.toml")
            error = refused()
            assert "not obeyed" in error.what
            assert error.where is not None
            assert "--config" in (error.hint or "")
            # Whoever names the file trusts it.
            dissect("--config", "ckpts/cmon.toml")
    write('model = "resnet18"\ntrust-pickle = false', "ckpts/cmon.toml")
    assert dissect().model == "resnet18"


def test_the_folder_of_the_checkpoints_is_not_trusted_because_one_stands_in_it(
    monkeypatch: pytest.MonkeyPatch, clean: Path
) -> None:
    write("trust-pickle = true", "ckpts/cmon.toml")
    monkeypatch.chdir(clean / "ckpts")
    with pytest.raises(InputError, match="not obeyed"):
        parse("dissect", ".")


# -- what is refused ---------------------------------------------------------------------------


def test_unknown_key_names_file_key_and_the_nearest() -> None:
    write('layers = "a"')
    error = refused()
    assert "layers" in error.what
    assert error.where == "cmon.toml"
    assert "layer" in (error.hint or "")
    write("[dissect]\nbatchsize = 3")
    assert "batch-size" in (refused().hint or "")
    write("[disect]\nbeam = 3")
    assert "[dissect]" in (refused().hint or "")
    write('[embed]\nprobe = "x"')
    assert "[embed] probe" in refused().what


def test_keys_of_other_commands_are_fine_and_checked_only_where_used() -> None:
    write("neighbors = 5\n[embed]\nmin-dist = 0.5\n[cache]\nmax-size = '5GB'")
    assert dissect().beam == 10
    assert embed().neighbors == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('beam = "3"', "whole number"),
        ("beam = 3.5", "whole number"),
        ("beam = true", "whole number"),
        ("beam = [3]", "a list"),
        ("layer = 4", "a text"),
        ("layer = ['a', 4]", "a text"),
        ('save-scores = "yes"', "true or false"),
        ("save-scores = 1", "true or false"),
        ("fdr = '0.05'", "a number"),
        ("beam = 1979-05-27", "a date"),
        ("beam = 0", "beam"),
        ("fdr = 0", "fdr"),
        ("detector = 'clip-disect'", "clip-disect"),
        ("device = 'gpu'", "gpu"),
        ("mean = [0.5, 0.5]", "three numbers"),
        ("epochs = 'a'", "epochs"),
        ("config = 'x.toml'", "cannot be set"),
        ("beam = 1\nbeam = 2", "TOML"),
        ("top-concepts = 1\ntop_concepts = 2", "twice"),
        ("beam 1", "TOML"),
        ("beam = " + "[" * 100_000, ""),
    ],
)
def test_bad_files_name_the_file(line: str, words: str) -> None:
    write(line)
    error = refused()
    assert words in error.what
    assert error.where == "cmon.toml"


def test_bytes_that_are_no_text_and_a_missing_file() -> None:
    Path("cmon.toml").write_bytes(b"\xff\xfe\x00beam")
    assert "UTF-8" in refused().what
    Path("cmon.toml").unlink()
    assert "cannot be read" in refused("--config", "absent.toml").what


# -- every option ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESENT)
def test_every_option_has_variable_help_and_a_metavar(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for leaf in leaves(name):
        parent = typer.Context(root, info_name="cmon", obj=Console())
        ctx = leaf.make_context(leaf.name, [], parent=parent, resilient_parsing=True)
        for param in leaf.params:
            if isinstance(param, TyperOption):
                monkeypatch.setenv("CMON_" + param.name.upper(), "value")
                assert param.resolve_envvar_value(ctx) == "value", param.name
                # The key of the file and of the variable is the flag's own name.
                assert f"--{param.name.replace('_', '-')}" in param.opts
                assert param.help
                assert param.is_flag or param.metavar, param.name
                assert not param.is_flag or param.secondary_opts, param.name


@pytest.mark.parametrize("name", PRESENT)
def test_every_command_has_a_line_in_the_table_text_and_examples(name: str) -> None:
    line = next(panel[name] for panel in COMMANDS.values() if name in panel)
    assert len(line) <= 62, "must fit into 80 columns beside the names"
    for leaf in leaves(name):
        assert leaf.help
        assert leaf.callback.examples


@pytest.mark.parametrize(("name", "kind"), [("dissect", DissectOptions), ("embed", EmbedOptions)])
def test_defaults_are_those_of_the_library(name: str, kind: type[CommonOptions]) -> None:
    options = parse("dissect", "ckpts") if name == "dissect" else parse("embed")
    for item in fields(kind):
        if item.name in ("sources", "checkpoints", "layers"):
            continue
        default = item.default if item.default_factory is MISSING else item.default_factory()
        assert default is not MISSING
        assert getattr(options, item.name) == default, item.name


def test_options_as_json_values() -> None:
    options = dissect("--layer", "a", "--epochs", "0:9:3,last", "--shard", "1/2", "--mean", "0.5")
    values = options.as_dict()
    assert values["epochs"] == "0:9:3,last"
    assert values["shard"] == "1/2"
    assert values["mean"] == [0.5, 0.5, 0.5]
    assert values["out"] == "cmon-out"
    assert "sources" not in values


# -- the forms of values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("0,10", (0, 10)),
        ("0:20:10", (0, 10, 20)),
        ("5:", (5, 10, 20, 21)),
        (":5", (0, 5)),
        ("::10", (0, 10, 20)),
        ("first,last", (0, 21)),
        ("10, 10 ,5", (5, 10)),
    ],
)
def test_epochs(text: str, chosen: tuple[int, ...]) -> None:
    selection = EpochFilter.parse(text)
    assert selection.select([21, 20, 10, 5, 0]) == chosen
    assert EpochFilter.parse(str(selection)) == selection


@pytest.mark.parametrize("text", ["", ",", "a", "-1", "1:2:3:4", "1:2:0", "1.5", "0-5", "²"])
def test_epochs_that_mean_nothing(text: str) -> None:
    with pytest.raises(InputError):
        EpochFilter.parse(text)


def test_epochs_that_are_not_there() -> None:
    with pytest.raises(InputError, match="no epoch 7") as caught:
        EpochFilter.parse("7").select([0, 5, 10])
    assert "5" in (caught.value.hint or "")
    with pytest.raises(InputError, match="no epoch is left"):
        EpochFilter.parse("11:").select([0, 5, 10])
    with pytest.raises(InputError):
        EpochFilter.parse("last").select([])


def test_shards() -> None:
    assert Shard.parse("1/1") == Shard(1, 1)
    for text in ("0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/2/3"):
        with pytest.raises(InputError):
            Shard.parse(text)


def test_units_with_ranges() -> None:
    assert embed("--units", "256,479", "-u", "3-5").units == (256, 479, 3, 4, 5)
    for text in ("-1", "a", "1-", "1.5"):
        with pytest.raises(InputError):
            embed("--units", text)


SAMPLES = sorted((Path(__file__).parents[2] / "sample_configs").rglob("*.toml"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_sample_configs_are_valid(path: Path) -> None:
    assert dissect("--config", str(path)).layers
    embed("--config", str(path))


def test_there_are_sample_configs() -> None:
    assert len(SAMPLES) >= 4
