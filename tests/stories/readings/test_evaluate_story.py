"""`cmon evaluate` from the command line: tables, errors, the grid, what is recorded again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluation"))

from judged_world import CLASSES, EACH, WORDS, make_world, write_photos

from concept_monitor_cli.cli import main
from concept_monitor_cli.run import TABLES

Call = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def evaluate(world: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `cmon evaluate ... --json`: exit code, the answer, and what went to standard error."""

    def call(*arguments: object, run: Path = world / "run") -> tuple[int, dict[str, Any], str]:
        common = ["--cache-dir", world / "cache", "--device", "cpu", "--json"]
        code = main(["evaluate", str(run), *map(str, [*arguments, *common])])
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return call


def entries(world: Path, kind: str) -> int:
    return len(list((world / "cache" / kind).rglob("*.h5")))


def read(run: Path, name: str) -> pd.DataFrame:
    return TABLES[name].read_csv(run / "tables" / f"{name}.csv")


def test_the_whole_story(world: Path, evaluate: Call) -> None:
    code, answer, said = evaluate()
    assert code == 0, said
    assert answer["classes"] == {
        "names": list(CLASSES),
        "source": "the folders of the probing images, in alphabetical order",
    }
    assert "class names from the folders" in said
    assert "no mpnet cos" in said
    table = read(world / "run", "evaluation")
    assert set(table["epoch"]) == {1}, "the last epoch where none is asked for"
    accuracy = table[table["metric"] == "accuracy"].set_index("similarity")
    assert set(accuracy.index) == {"cos", "cos-cubed", "rank-reorder", "wpmi", "soft-wpmi"}
    assert accuracy.loc["wpmi", "value"] == 1.0
    assert accuracy.loc["wpmi", "chance"] == pytest.approx(1 / len(WORDS))
    found = table.set_index(["layer", "measure", "metric"])["value"]
    assert found["2", "contributions", "class accuracy"] == 1.0
    assert found["2", "contributions", "network accuracy"] == 1.0
    assert found["2", "weights", "CLIP correlation"] > 0.8
    labels = read(world / "run", "evaluation-labels")
    assert labels.groupby("similarity").size().to_dict() == dict.fromkeys(accuracy.index, 6)
    units = read(world / "run", "evaluation-contributions")
    assert units["images"].sum() == 6 * EACH
    assert (units["right"] == units["images"]).all()
    curve = read(world / "run", "evaluation-weights")
    assert curve["k"].iloc[[0, -1]].tolist() == [1, 6 * 18]
    assert curve["cosine"].iloc[0] == pytest.approx(1.0)
    assert curve["cosine"].iloc[-1] == pytest.approx(curve["chance"].iloc[-1])
    assert {Path(path).name for path in answer["plots"]} >= {
        "label_quality.3.clip-dissect.png",
        "described_classes.2.clip-dissect.png",
        "weights_and_concepts.2.clip-dissect.png",
    }
    assert all(Path(path).stat().st_size > 5000 for path in answer["plots"])


def test_over_epochs_and_the_same_bytes_again(world: Path, evaluate: Call) -> None:
    arguments = ["--epochs", "0:", "--measure", "labels", "--similarity", "wpmi,cos-cubed"]
    before = entries(world, "activations")
    assert evaluate(*arguments)[0] == 0
    first = (world / "run/tables/evaluation.csv").read_bytes()
    table = read(world / "run", "evaluation")
    assert table.groupby(["epoch", "similarity"]).ngroups == 4
    assert set(table["measure"]) == {"labels"}
    assert evaluate(*arguments)[0] == 0
    assert (world / "run/tables/evaluation.csv").read_bytes() == first
    assert entries(world, "activations") == before, "nothing is recorded again"


def test_what_is_printed(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(world / "run"), "--cache-dir", str(world / "cache")]) == 0
    text = capsys.readouterr().out
    assert "labels: 3 (clip-dissect)" in text
    assert "by chance" in text
    assert "label_quality.3.clip-dissect.png" in text


def test_chance_of_unlike_settings_is_a_range(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fewer.txt").write_text("\n".join(WORDS[:20]) + "\n")
    arguments = ["--grid", "--measure", "labels", "--similarity", "wpmi", "--cache-dir", world / "cache"]
    code = main(
        ["evaluate", *map(str, [world / "run", *arguments, "--grid-concepts", tmp_path / "fewer.txt"])]
    )
    text = capsys.readouterr().out
    assert code == 0
    assert "0.025 to 0.050" in text, "1/40 and 1/20"


# -- errors --------------------------------------------------------------------------------------


def test_a_layer_without_known_labels(evaluate: Call) -> None:
    code, answer, said = evaluate("--layer", "2", "--measure", "labels")
    assert code == 2
    assert "true names of the units of 2 are not known" in said
    assert answer["error"]["hint"] == "dissect the classifier, too: --layer 3"
    code, _, said = evaluate("--layer", "3", "--measure", "weights")
    assert code == 2
    assert "not the layer before the classifier" in said
    # Not asked for by name, a measure that does not fit is said and left out.
    code, answer, said = evaluate("--layer", "2")
    assert code == 0
    assert any(notice.startswith("no labels: the true names") for notice in answer["notices"])


def test_class_names_that_do_not_fit(world: Path, evaluate: Call) -> None:
    code, _, said = evaluate("--measure", "labels", "--class-names", "cifar10")
    assert code == 2
    assert "10 class names (cifar10) for the 6 classes of 3" in said
    code, _, said = evaluate("--measure", "labels", "--classifier", "7")
    assert code == 2
    assert "no linear layer '7'" in said


def test_no_sentence_model(evaluate: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    code, answer, said = evaluate("--measure", "labels", "--sentence-model", "all-mpnet-base-v2")
    assert code == 1
    assert "sentence-transformers is not installed" in said
    assert "concept-monitor-cli[sentences]" in answer["error"]["hint"]
    code, _, said = evaluate("--measure", "labels", "--sentence-model", "/nowhere/mpnet")
    assert code == 2
    assert "no such folder" in said


def test_a_sentence_model_that_cannot_be_loaded(
    evaluate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("config.json is not there\nand more")

    library, logging = ModuleType("sentence_transformers"), ModuleType("transformers.utils.logging")
    library.SentenceTransformer = fail  # type: ignore[attr-defined]
    logging.disable_progress_bar = lambda: None  # type: ignore[attr-defined]
    for name, module in {
        "sentence_transformers": library,
        "transformers": ModuleType("transformers"),
        "transformers.utils": ModuleType("transformers.utils"),
        "transformers.utils.logging": logging,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    code, _, said = evaluate("--measure", "labels", "--sentence-model", tmp_path)
    assert code == 2
    assert "cannot be loaded: config.json is not there" in said
    code, _, said = evaluate("--measure", "labels")
    assert code == 0
    assert "all-mpnet-base-v2 is not on this machine" in said


def test_a_checkpoint_that_is_gone_or_another(tmp_path: Path, world: Path, evaluate: Call) -> None:
    run = tmp_path / "run"
    shutil.copytree(world / "run", run)
    for file in run.rglob("checkpoint.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "weights": "0" * 64}))
    code, _, said = evaluate("--measure", "labels", run=run)
    assert code == 2
    assert "not the one that this run was made with" in said
    for file in run.rglob("checkpoint.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "path": str(tmp_path / "gone.pth")}))
    code, _, said = evaluate("--measure", "labels", run=run)
    assert code == 2
    assert "is gone" in said


def test_no_run(tmp_path: Path, evaluate: Call) -> None:
    code, _, said = evaluate(run=tmp_path)
    assert code == 2
    assert "no run here" in said


# -- other images, other poolings ----------------------------------------------------------------


def test_a_network_of_code_is_run_again_only_if_the_user_says_so(
    world: Path, evaluate: Call, tmp_path: Path
) -> None:
    run = world / "run"
    code, _, said = evaluate("--grid", "--grid-pooling", "max")
    assert code == 2
    assert f"add --model {world / 'network.py'}:network" in said
    code, answer, said = evaluate(
        "--grid", "--grid-pooling", "max", "--model", f"{world / 'network.py'}:network"
    )
    assert code == 0, said
    assert {row["pooling"] for row in answer["rows"]} == {"auto", "max"}
    assert read(run, "evaluation-grid").shape[0] == len(answer["rows"])


def test_held_out_images_are_shown_to_the_network(world: Path, tmp_path: Path) -> None:
    from concept_monitor_cli.errors import InputError
    from concept_monitor_cli.options import EpochFilter, EvaluateOptions
    from concept_monitor_cli.progress import SILENT
    from concept_monitor_cli.stories.bench import Bench

    shown = write_photos(tmp_path / "more", EACH, seed=9)
    write_photos(tmp_path / "fewer", 5, seed=9)
    options = EvaluateOptions(
        out=world / "run",
        cache_dir=world / "cache",
        device="cpu",
        epochs=EpochFilter.parse("last"),
        held_out=str(tmp_path / "more"),
        model=f"{world / 'network.py'}:network",
    )
    bench = Bench(options, SILENT)
    assert bench.held_out is not None
    history = bench.opened.histories[-1]
    pooled = bench.held_out.pooled(bench.record(history, -1), history.layer)
    assert pooled.argmax(1).tolist() == [shown[name] for name in bench.held_out.context.probe.ids]
    # Embeddings of a file are those of the run's images, and no others'.
    bench = Bench(replace(options, held_out=str(tmp_path / "fewer")), SILENT)
    with pytest.raises(InputError, match="240"):
        _ = next(s for s in bench.subjects([]) if s.layer == history.layer).trial


def half_known(world: Path, folder: Path, fresh: int) -> Path:
    """As many photos as the run has, all its own but for `fresh` of each class."""
    shutil.copytree(world / "photos", folder)
    write_photos(folder.parent / "fresh", fresh, seed=9)
    for photo in (folder.parent / "fresh").rglob("*.png"):
        shutil.copy(photo, folder / photo.relative_to(folder.parent / "fresh"))
    return folder


def test_images_of_the_run_are_not_held_out(world: Path, tmp_path: Path, evaluate: Call) -> None:
    code_of_network = ["--model", f"{world / 'network.py'}:network"]
    more = half_known(world, tmp_path / "more", 10)
    code, answer, said = evaluate("--measure", "simulation", "--held-out", more, *code_of_network)
    assert code == 0, said
    notice = "180 of the 240 held-out images are the run's own: labels are judged by the other 60"
    assert answer["notices"].count(notice) == 1
    assert said.count(notice) == 1
    table = read(world / "run", "evaluation-simulation")
    assert set(table["layer"]) == {"2", "3"}
    assert set(table["images"]) == {60}
    few = half_known(world, tmp_path / "none" / "few", 3)
    code, _, said = evaluate("--measure", "simulation", "--held-out", few, *code_of_network)
    assert code == 2
    assert "222 of the 240 held-out images are the run's own; the other 18 are too few" in said


def test_held_out_images_are_read_once_for_all_layers(world: Path, tmp_path: Path) -> None:
    from concept_monitor_cli.options import EpochFilter, EvaluateOptions
    from concept_monitor_cli.progress import SILENT
    from concept_monitor_cli.stories.bench import Bench

    options = EvaluateOptions(
        out=world / "run",
        cache_dir=world / "cache",
        device="cpu",
        epochs=EpochFilter.parse("0:"),
        held_out=str(half_known(world, tmp_path / "more", 10)),
        model=f"{world / 'network.py'}:network",
    )
    bench = Bench(options, SILENT)
    trials = [subject.trial.unseen for subject in bench.subjects([])]
    assert len(trials) == 4
    assert all(each.embeddings is trials[0].embeddings for each in trials)
    # What shows the patches is the same photo in the network's eye and by its name.
    final = trials[-1]
    assert final.pooled.argmax(1).tolist() == [CLASSES.index(name.split("/")[0]) for name in final.ids]


def test_the_classifier_of_a_checkpoint_is_read_once(world: Path) -> None:
    from concept_monitor_cli.options import EpochFilter, EvaluateOptions
    from concept_monitor_cli.progress import SILENT
    from concept_monitor_cli.stories.bench import Bench

    options = EvaluateOptions(
        out=world / "run", cache_dir=world / "cache", device="cpu", epochs=EpochFilter.parse("0:")
    )
    bench = Bench(options, SILENT)
    records = [bench.record(bench.opened.histories[0], column) for column in (0, 1)]
    first, second = (bench.classifier(record) for record in records)
    assert bench.classifier(records[0]) is first is not second


# -- the grid ------------------------------------------------------------------------------------


def test_the_grid(world: Path, evaluate: Call, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer.txt"
    fewer.write_text("\n".join(WORDS[:20]) + "\n")
    other = tmp_path / "other.h5"
    import h5py

    with h5py.File(world / "embeddings.h5") as source, h5py.File(other, "w") as file:
        for name in ("texts", "concepts"):
            source.copy(name, file)
        # An encoder that sees nothing.
        file["images"] = np.random.default_rng(0).normal(size=source["images"].shape).astype(np.float32)
    before = entries(world, "activations")
    code, answer, said = evaluate(
        "--grid", "--measure", "labels", "--grid-concepts", fewer, "--grid-encoder", f"embeddings:{other}"
    )
    assert code == 0, said
    assert entries(world, "activations") == before, "a grid repeats no forward pass"
    assert "CLIP cos is in the space of" in said
    rows = pd.DataFrame(answer["rows"])
    assert len(rows.groupby(["concepts", "encoder", "pooling", "similarity"])) == 2 * 2 * 5
    accuracy = rows[rows["metric"] == "accuracy"].set_index(["concepts", "encoder", "similarity"])["value"]
    own = f"embeddings:{world / 'embeddings.h5'}"
    assert accuracy["words.txt", own, "wpmi"] == 1.0
    assert accuracy["fewer.txt", own, "cos-cubed"] == 1.0
    assert accuracy["words.txt", f"embeddings:{other}", "wpmi"] < 0.7
    assert [Path(path).name for path in answer["plots"]] == ["evaluation_grid.png"]
    chance = rows[rows["metric"] == "accuracy"].groupby("concepts")["chance"].first()
    assert chance.to_dict() == {"words.txt": 1 / 40, "fewer.txt": 1 / 20}
    code, _, said = evaluate("--grid", "--grid-encoder", "a,b,c,d")
    assert code == 2
    assert "NAME[,WEIGHTS[,CONFIG]]" in said


def test_the_cell_of_the_run_is_the_evaluation(world: Path, evaluate: Call) -> None:
    columns = ["layer", "similarity", "metric", "value", "chance", "count"]
    evaluate("--measure", "labels")
    alone = read(world / "run", "evaluation")[columns]
    evaluate("--grid", "--measure", "labels", "--layer", "3")
    grid = read(world / "run", "evaluation-grid")[columns]
    order = ["similarity", "metric"]
    pd.testing.assert_frame_equal(
        alone.sort_values(order, ignore_index=True), grid.sort_values(order, ignore_index=True)
    )


# -- recordings that are gone --------------------------------------------------------------------


def test_activations_that_were_pruned_are_recorded_again(tmp_path: Path) -> None:
    from concept_monitor_cli.options import EvaluateOptions
    from concept_monitor_cli.stories.evaluate import evaluate as judge

    world = make_world(tmp_path, epochs=(0,))
    options = EvaluateOptions(
        out=world / "run",
        cache_dir=world / "cache",
        device="cpu",
        measures=("labels",),
        model=f"{world / 'network.py'}:network",
    )
    first = judge(options).rows
    shutil.rmtree(world / "cache" / "activations")
    assert judge(options).rows == first
    assert entries(world, "activations") == 2
