"""Labels of a run are of its word list, which the encoder has said already: it does not say them again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from concept_monitor_cli.concepts import ConceptSet
from concept_monitor_cli.encoders import ClipEncoder
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import ReadingOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.stories.inputs import concepts_of, listed_concepts, run_study

from .conftest import WORDS, Bench


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes through the text tower."""
    words: list[str] = []
    text = ClipEncoder.text

    def hear(self: ClipEncoder, texts: Sequence[str]) -> torch.Tensor:
        words.extend(texts)
        return text(self, texts)

    monkeypatch.setattr(ClipEncoder, "text", hear)
    return words


def test_the_encoder_says_each_word_once(bench: Bench, cmon, heard: list[str]) -> None:
    """Neither when the run ends, nor for its map, statistics and lives, nor for a new checkpoint."""
    command = bench.dissect("--encoder", "builtin", "-q")
    assert cmon(*command).code == 0
    assert sorted(heard) == sorted(WORDS)
    heard.clear()
    bench.add(15)
    assert cmon(*command).code == 0
    out, common = bench.root / "out", ["--cache-dir", bench.root / "cache", "-q"]
    place = ["--method", "pca", *common]
    assert cmon("embed", out, "--anchors", ",".join(WORDS[:2]), *place).code == 0
    before = (out / "tables" / "embedding.csv").read_bytes()
    assert cmon("stats", out, *common).code == 0
    assert cmon("units", out, *common).code == 0
    assert not heard
    assert cmon("embed", out, "--anchors", f"{WORDS[0]},windmill", *place).code == 0
    assert heard == ["windmill"]
    assert cmon("embed", out, "--anchors", ",".join(WORDS[:2]), *place).code == 0
    assert (out / "tables" / "embedding.csv").read_bytes() == before


def test_a_list_that_no_detector_looks_at_is_not_embedded_for_its_labels(bench: Bench, cmon) -> None:
    def never() -> ConceptSet:
        raise AssertionError("the list was asked for")

    run = RunFolder(bench.root / "out")
    options = ReadingOptions(out=run.root, cache_dir=bench.root / "cache", device="cpu")
    masks = bench.dissect("-q", "--detector", "network-dissection", "--no-floors", out="masks")
    for option, value in (("--probe", "builtin"), ("--encoder", "builtin"), ("--concepts", "broden")):
        masks[masks.index(option) + 1] = value
    assert cmon(*masks).code == 0
    assert listed_concepts(RunFolder(bench.root / "masks").info(), never) is None
    assert cmon(*bench.dissect("-q", "--no-floors")).code == 0
    listed = listed_concepts(run.info(), lambda: concepts_of(run, run_study(run, options, SILENT)))
    assert listed is not None
    assert list(listed.words()) == list(WORDS)
    (bench.root / "words.txt").write_text("red\n")
    with pytest.raises(InputError, match="not those that this run was made with"):
        listed.words()
