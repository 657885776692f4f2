"""`cmon compare RUN... --accuracies FILE`: interpretable units beside the generalisation gap."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from planted_training import EPOCHS, UNITS, weights

from concept_monitor_cli.cli.compare import _diversity_lines, _diversity_table
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import CompareOptions
from concept_monitor_cli.progress import Silent
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.stories.compare import CompareResult, compare

RUNS = 7
KNOWN = 16
"""Interpretable units of the planted training."""


class Listener(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def notice(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def runs(dissected: Callable[..., Path]) -> list[Path]:
    """Seven trainings in which ever more of the planted units see nothing."""
    found = []
    for lost in range(RUNS):
        state = weights(EPOCHS - 1)
        for unit in [unit for unit in range(UNITS) if unit % 6 == 5 or unit % 6 == 4][:lost]:
            state["1.weight"][unit] = 0
        found.append(dissected(f"diverse{lost}", {EPOCHS - 1: state}))
    return found


def asked(runs: list[Path], out: Path, cache: Path, **more: object) -> CompareOptions:
    return CompareOptions(
        run_a=runs[0],
        run_b=runs[1],
        more=tuple(runs[2:]),
        out=out,
        cache_dir=cache,
        device="cpu",
        **more,  # type: ignore[arg-type]
    )


def accuracies(runs: list[Path], file: Path) -> Path:
    lines = [f"{run.name},{90 - place},{80 - 3 * place}" for place, run in enumerate(runs)]
    file.write_text("run,train,test\n" + "\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def found(
    runs: list[Path], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CompareResult, Path]:
    out = tmp_path_factory.mktemp("diversity")
    file = accuracies(runs, out / "acc.csv")
    return compare(asked(runs, out, cache, accuracies=file, plot_formats=("png",))), out


def test_a_point_for_each_run_and_their_order_beside_chance(
    runs: list[Path], found: tuple[CompareResult, Path]
) -> None:
    result, out = found
    table = TABLES["diversity"].read_csv(out / "tables/diversity.csv").set_index("run")
    assert len(table) == RUNS
    for lost, run in enumerate(runs):
        row = table.loc[run.name]
        # A unit that sees nothing is dead, and leaves the count of live ones.
        assert row["units"] == UNITS - 1 - lost
        assert row["interpretable"] == KNOWN - lost
        assert row["share"] == pytest.approx((KNOWN - lost) / (UNITS - 1 - lost))
        assert row["gap"] == pytest.approx((90 - lost - 80 + 3 * lost) / 100)
    (line,) = result.diversity_tests
    assert line["runs"] == RUNS
    # The more are lost the larger the gap: one order of 5,040, and its reverse.
    assert line["correlation"] == pytest.approx(-1)
    assert line["p_value"] == pytest.approx(2 / 5040)
    # Test accuracy falls alike in all: nothing is left at equal test accuracy.
    assert line["partial"] is None
    assert _diversity_lines(result)[0].endswith("share and gap: rank correlation -1.00 (p 0.000)")
    (figure,) = [path for path in result.plots if path.name.startswith("diversity.")]
    assert figure.stat().st_size > 5000


def test_the_table_fits_a_terminal(found: tuple[CompareResult, Path]) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(_diversity_table(found[0].diversity))
    text = console.export_text()
    assert "0.10" in text
    assert max(map(len, text.splitlines())) <= 100


def test_few_runs_say_little_and_unknown_gaps_are_left_out(
    runs: list[Path], cache: Path, tmp_path: Path
) -> None:
    file = tmp_path / "acc.csv"
    file.write_text(f"run,train\n{runs[0].name},0.9\n{runs[1].name},0.8\n")
    said = Listener()
    result = compare(asked(runs[:2], tmp_path, cache, accuracies=file, plot_formats=()), said)
    assert [row["gap"] for row in result.diversity] == [None, None]
    assert result.diversity_tests == []
    assert sum("its gap is not known" in line for line in said.said) == 2
    file = accuracies(runs[:3], tmp_path / "three.csv")
    said = Listener()
    result = compare(asked(runs[:3], tmp_path, cache, accuracies=file, plot_formats=()), said)
    (line,) = result.diversity_tests
    assert (line["runs"], line["p_value"]) == (3, None)
    assert any("fewer than 6" in notice for notice in said.said)
    assert "too few runs" in _diversity_lines(result)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,train\na,1\n", "columns run, train, test"),
        ("run,train,test\nnobody,0.9,0.8\n", "no run is called nobody"),
        ("run,train,test\n{run},high,0.8\n", "line 2"),
        ("run,train,test\n{run},900,0.8\n", "0 to 1, or per cent"),
    ],
)
def test_files_that_say_nothing_are_refused(
    runs: list[Path], cache: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "acc.csv").write_text(text.replace("{run}", runs[0].name))
    with pytest.raises(InputError, match=message):
        compare(asked(runs[:2], tmp_path, cache, accuracies=tmp_path / "acc.csv", plot_formats=()))
    with pytest.raises(InputError, match="cannot be read"):
        compare(asked(runs[:2], tmp_path, cache, accuracies=tmp_path / "none.csv", plot_formats=()))
