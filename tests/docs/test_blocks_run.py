"""The Python blocks of the documents run as they are written.

What a block takes for granted (a network, photos, an encoder that needs no download, other people's trainers)
stands ready and is small. The trainers are stand-ins; `tests/library/test_adapters.py` has the real ones.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import concept_monitor_cli as cmon
from concept_monitor_cli.library.monitoring import Monitor
from tests.docs.reader import cmon as command
from tests.docs.test_documented_commands import PAGES
from tests.stories.conftest import make_bench

# A block is Python if a line of it imports or assigns.
PYTHON = re.compile(r"^(?:import \w|from \w|\w+ = )", re.MULTILINE)


def blocks(text: str) -> list[str]:
    """The indented blocks of a page that are Python, as a reader would copy them."""
    found = re.findall(r"(?:^ {4,}\S.*\n(?:\n(?= {4}))?)+", text + "\n", re.MULTILINE)
    return [block for block in map(textwrap.dedent, found) if PYTHON.search(block)]


BLOCKS = {page.name: found for page in PAGES if (found := blocks(page.read_text("utf-8")))}


def test_every_page_with_python_is_run_here() -> None:
    assert set(BLOCKS) == {"library.md", "detectors.md"}
    assert len(BLOCKS["library.md"]) == 6
    assert blocks("Text:\n\n    x = 1\n\n    y = 2\n\n    cmon stats\n") == ["x = 1\n\ny = 2\n\ncmon stats\n"]
    assert blocks("Text:\n\n    cmon dissect ckpts --seed=3\n") == []


def test_the_mathematics_as_functions() -> None:
    around = {"P": torch.rand(60, 5), "Q": torch.rand(60, 4), "text_embeddings": torch.rand(5, 3)}
    for block in BLOCKS["detectors.md"]:
        exec(block, around)
    assert around["scores"].shape == (4, 5)
    assert around["vectors"].shape == (4, 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes folders with nothing but photos in them, and goes there."""
    bench = make_bench(tmp_path, epochs=())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "store"))
    monkeypatch.delenv("CMON_CACHE_DIR", raising=False)
    given: dict[str, Any] = {
        **{"encoder": f"embeddings:{bench.root / 'embeddings.h5'}", "concepts": bench.root / "words.txt"},
        **{"input_size": 32, "floors": False, "stability": False},
    }
    dissect_model, begin = cmon.dissect_model, Monitor.__init__

    def dissect(*words: Any, **settings: Any) -> cmon.Run:
        return dissect_model(*words, **given, **settings)

    def init(*words: Any, **settings: Any) -> None:
        begin(*words, **given, **settings)

    monkeypatch.setitem(vars(cmon), "dissect_model", dissect)
    monkeypatch.setattr(Monitor, "__init__", init)

    def go(name: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "photos").symlink_to(bench.root / "photos")
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return go


def train(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.01 * torch.randn_like(value))


def test_the_page_on_the_library(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    import concept_monitor_cli._torchvision  # isort: skip  # noqa: F401
    from torchvision.models import resnet18

    if importlib.util.find_spec("transformers") is None:
        stands_in = ModuleType("transformers")
        stands_in.TrainerCallback = object  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "transformers", stands_in)
    torch.manual_seed(0)
    network = resnet18(num_classes=10)
    shown: list[Any] = []
    logged: list[Any] = []
    board = SimpleNamespace(log=lambda *words, **_: logged.append(words), define_metric=lambda *_, **__: None)
    trainers = SimpleNamespace(Trainer=lambda *_, callbacks: callbacks)
    around: dict[str, Any] = {
        "timm": SimpleNamespace(create_model=lambda name, pretrained: network),
        **{"model": network, "train": train, "epochs": 21, "display": shown.append},
        **{"lightning": trainers, "transformers": trainers},
        "saver": SimpleNamespace(model=network, save_checkpoint=lambda epoch, metric=None: (metric, epoch)),
        "wandb": SimpleNamespace(init=lambda mode: board),
    }
    start, read, once, loop, adapters, boards = BLOCKS["library.md"]
    exec(start, around)

    folder("once")
    exec(once, around)
    assert around["run"].layers == ["layer4"]

    folder("loop")
    exec(loop, around)
    assert command("units", "-q") == 0  # writes the table that the block reads
    exec(read, around)
    assert around["run"].epochs == [0, 5, 10, 15, 20]
    assert len(shown) > 3
    assert not around["monitor"].failed

    for name, block in (("adapters", adapters), ("boards", boards)):
        here = folder(name)
        exec(block, around)
        around["monitor"](network, 0)
        assert (here / "cmon-out" / "run.json").is_file(), name
    assert logged
