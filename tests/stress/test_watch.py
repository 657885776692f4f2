"""Watching a training: the tables are those of a dissect afterwards."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from stories.conftest import Bench, cmon, make_bench, make_network  # noqa: F401

from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.progress import Silent
from concept_monitor_cli.stories import overall, watch
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.stats import statistics_of
from concept_monitor_cli.stories.watch import CurrentReport, Landing


def test_a_file_is_complete_when_it_stays_the_same_and_opens(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"state_dict": make_network().state_dict(), "epoch": 3}, whole)
    content = whole.read_bytes()
    whole.unlink()
    landing, specs = Landing(), (str(tmp_path),)
    assert landing.look(specs) == {}
    path = tmp_path / "epoch_3.pth"
    for size in (1000, 2000, 2000):
        path.write_bytes(content[:size])
        assert landing.look(specs) == {}
    assert landing.look(specs) == {}
    assert path in landing.unreadable
    path.write_bytes(content)
    assert landing.look(specs) == {}
    assert set(landing.look(specs)) == {path}
    assert landing.unreadable == {}


@pytest.fixture
def training(tmp_path: Path) -> Bench:
    """A study with no checkpoint yet."""
    bench = make_bench(tmp_path, ())
    bench.checkpoints.mkdir()
    return bench


def write_slowly(bench: Bench, epochs: int, seconds: float) -> None:
    for epoch in range(epochs):
        network = make_network(epoch)
        if epoch >= 2:
            # Units die.
            with torch.no_grad():
                network.layer3[2].bn2.weight[:20] = 0
                network.layer3[2].bn2.bias[:20] = -1000
        elsewhere = bench.root / "elsewhere.pth"
        torch.save({"state_dict": network.state_dict(), "epoch": epoch}, elsewhere)
        content = elsewhere.read_bytes()
        with (bench.checkpoints / f"epoch_{epoch}.pth").open("wb") as file:
            for part in np.array_split(np.frombuffer(content, dtype=np.uint8), 4):
                file.write(part.tobytes())
                file.flush()
                time.sleep(seconds / 4)


def test_statistics_are_counted_once_for_every_look_that_finds_something(
    training: Bench,
    cmon,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_slowly(training, 2, 0.0)
    counted = []

    def count(where: str, opened: OpenRun) -> pd.DataFrame:
        counted.append(where)
        return statistics_of(opened)

    for module in (overall, watch):
        monkeypatch.setattr(module, "statistics_of", partial(count, module.__name__.rpartition(".")[2]))
    arguments = training.dissect("--interval", "0.1s", "--until-epoch", "1", "--json", "-q")
    answer = cmon("watch", *arguments[1:])
    assert answer.code == 0, answer.err
    assert len(answer.json()["done"]) == 2
    assert counted == ["overall"]
    assert (training.root / "out/tables/statistics.csv").is_file()


def test_watching_a_training_ends_with_the_tables_of_a_dissect(training: Bench, cmon) -> None:  # noqa: F811
    notes = training.root / "notes $(touch owned)"
    notify = training.root / "notify.py"
    notify.write_text("import sys; open(sys.argv[1], 'a').write(sys.stdin.read())\n")
    writer = threading.Thread(target=write_slowly, args=(training, 6, 1.0))
    writer.start()
    arguments = training.dissect("--interval", "0.3s", "--until-epoch", "5", "--idle", "60s", "--json")
    answer = cmon("watch", *arguments[1:], "--on-alert", f"{sys.executable} {notify} '{notes}'")
    writer.join()
    assert answer.code == 0, answer.err
    assert sorted(answer.json()["done"]) == [f"epoch_{epoch}.pth" for epoch in range(6)]
    watched = training.tables()
    assert {"concepts.parquet", "statistics.csv"} <= set(watched)
    assert sum(name.startswith("epoch_") for name in watched) == 6
    assert cmon(*training.dissect("-q", out="after")).code == 0
    after = training.tables("after")
    assert set(after) - set(watched) <= {
        f"{n}.csv" for n in ("units", "changes", "self_similarity", "findings")
    }
    assert watched == {name: after[name] for name in watched}

    alerts = [json.loads(line) for line in (training.root / "out/alerts.jsonl").read_text().splitlines()]
    dying = [alert for alert in alerts if alert["rule"] == "dying"]
    assert [(alert["epoch"], alert["value"]) for alert in dying] == [(2, 20 / 64)]
    assert "units die" in answer.err
    assert [json.loads(line) for line in notes.read_text().splitlines()] == alerts
    assert not list(training.root.rglob("owned"))
    page = training.root / "out/report.html"
    assert answer.json()["report"] == str(page)
    assert all(f"epoch_{epoch}.pth" in page.read_text() for epoch in range(6))

    # Looking again repeats no warning.
    arguments = training.dissect("--interval", "0.1s", "--until-epoch", "5", "--json")
    again = cmon("watch", *arguments[1:])
    assert again.code == 0, again.err
    assert again.json()["alerts"] == []

    # What somebody did to the warnings is said, and not lost.
    (training.root / "out/alerts.jsonl").write_text("{")
    broken = cmon("watch", *arguments[1:])
    assert broken.code == 2
    assert "alerts.jsonl" in broken.err
    assert (training.root / "out/alerts.jsonl").read_text() == "{"
    shutil.rmtree(training.checkpoints)


def test_the_page_follows_and_is_whole_at_the_end(
    training: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once where the last one is old enough; not at every look; and nothing that fails there ends it."""
    from concept_monitor_cli.errors import CmonError
    from concept_monitor_cli.options import ReadingOptions
    from concept_monitor_cli.stories import watch as watching
    from concept_monitor_cli.stories.dissect import dissect

    class Told(Silent):
        def __init__(self) -> None:
            self.warnings: list[str] = []

        def warning(self, message: str) -> None:
            self.warnings.append(message)

    told = Told()
    out = training.root / "out"
    page = CurrentReport(ReadingOptions(out=out, cache_dir=training.root / "cache"), told)
    page.news()
    page.look()
    assert page.path is None  # no tables yet

    def run(epoch: int) -> None:
        training.add(epoch)
        dissect(
            DissectOptions(
                checkpoints=(str(training.checkpoints),),
                layers=("layer3",),
                probe=str(training.root / "photos"),
                encoder=f"embeddings:{training.root / 'embeddings.h5'}",
                concepts=str(training.root / "words.txt"),
                cache_dir=training.root / "cache",
                out=out,
            )
        )
        page.news()
        page.look()

    run(0)
    assert "epoch_0.pth" in (out / "report.html").read_text()
    run(1)
    assert "epoch_1.pth" not in (out / "report.html").read_text()
    # While nothing lands, the page that would have come too early is made up for.
    now = time.monotonic
    with monkeypatch.context() as patch:
        patch.setattr(watching.time, "monotonic", lambda: now() + 61)
        page.look()
    assert "epoch_1.pth" in (out / "report.html").read_text()
    run(2)

    def broken(*args: object) -> None:
        raise CmonError("no room") if len(told.warnings) == 0 else ZeroDivisionError("oh")

    with monkeypatch.context() as patch:
        patch.setattr(watching, "report", broken)
        patch.setattr(watching, "_REPORT_SECONDS", 0)
        patch.setattr(watching, "_REPORT_SHARE", 1e9)
        page.finish()
        page.look()  # not again and again
        page.finish()
    assert [message.rpartition(": ")[2] for message in told.warnings] == ["no room", "oh"]
    assert "epoch_2.pth" not in (out / "report.html").read_text()
    page.finish()
    assert "epoch_2.pth" in (out / "report.html").read_text()
    written = (out / "report.html").stat().st_mtime_ns
    page.look()
    page.finish()
    assert (out / "report.html").stat().st_mtime_ns == written


def test_watching_anew_keeps_the_run_until_something_takes_its_place(training: Bench, cmon) -> None:  # noqa: F811
    """What the old run says ends no watching and warns of nothing; inputs are opened and described once."""
    training.add(7)
    assert cmon(*training.dissect("-q", layer="layer1")).code == 0
    (training.checkpoints / "epoch_7.pth").unlink()
    network = make_network(0)
    with torch.no_grad():
        network.layer2[0].conv1.weight[0] = float("nan")
    torch.save({"state_dict": network.state_dict(), "epoch": 0}, training.checkpoints / "epoch_0.pth")

    def land() -> None:
        time.sleep(2)
        before = training.tables()
        assert "epoch_0007/layer1.clip-dissect.csv" in before
        training.add(1)
        time.sleep(2)
        training.add(2)

    writer = threading.Thread(target=land)
    writer.start()
    arguments = training.dissect("--interval", "0.2s", "--until-epoch", "2", "--idle", "60s", "--overwrite")
    answer = cmon("watch", *arguments[1:], "--json")
    writer.join()
    assert answer.code == 3, answer.err
    assert answer.json()["done"] == ["epoch_1.pth", "epoch_2.pth"]
    assert set(answer.json()["failed"]) == {"epoch_0.pth"}
    assert {name.partition("/")[0] for name in training.tables() if "/" in name} == {
        "epoch_0001",
        "epoch_0002",
    }
    assert answer.err.count("note: network:") == 1
