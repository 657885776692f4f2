from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from concept_monitor_cli.checkpoints import find_checkpoints
from concept_monitor_cli.errors import InputError


class Heard:
    """Keeps what the library says."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)

    warning = detail = notice

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "images") -> Iterator[object]:
        yield lambda n: None


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(*specs: str | Path) -> list[str]:
    return [file.name for file in find_checkpoints(*specs)]


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "epoch_10.pt",
        "epoch_9.pt",
        "epoch_1.pth.tar",
        "epoch_2.safetensors",
        "notes.txt",
        "log.json",
    )
    assert names(tmp_path) == ["epoch_1.pth.tar", "epoch_2.safetensors", "epoch_9.pt", "epoch_10.pt"]


@pytest.mark.parametrize("extension", [".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pth.tar", ".PTH"])
def test_every_extension(tmp_path: Path, extension: str) -> None:
    touch(tmp_path, f"model{extension}")
    assert names(tmp_path) == [f"model{extension}"]


def test_all_folders_below_but_hidden_ones(tmp_path: Path) -> None:
    touch(tmp_path, "a.pt", "old/b.pt", ".cache/c.pt")
    assert [(file.name, file.on_top) for file in find_checkpoints(tmp_path)] == [
        ("a.pt", True),
        ("b.pt", False),
    ]


def test_names_are_unique(tmp_path: Path) -> None:
    touch(tmp_path, "checkpoint-100/model.bin", "checkpoint-20/model.bin", "run/epoch_1.pt")
    assert names(tmp_path) == ["checkpoint-20/model.bin", "checkpoint-100/model.bin", "epoch_1.pt"]


def test_the_folder_searched_says_nothing_about_epochs(tmp_path: Path) -> None:
    touch(tmp_path / "run_7", "model.pt", "epoch_1/model.pt")
    assert [file.place for file in find_checkpoints(tmp_path / "run_7")] == ["epoch_1/model", "model"]
    two = find_checkpoints(tmp_path / "run_7/model.pt", tmp_path / "run_7/epoch_1/model.pt")
    assert [file.place for file in two] == ["model", "epoch_1/model"]


def test_a_glob_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a_1.pt", "a_2.pt", "b_1.pt", "deep/er/a_3.pt")
    assert names(str(tmp_path / "a_*.pt")) == ["a_1.pt", "a_2.pt"]
    assert names(str(tmp_path / "**" / "a_*.pt")) == ["a_1.pt", "a_2.pt", "a_3.pt"]
    assert names(tmp_path / "b_1.pt") == ["b_1.pt"]
    monkeypatch.chdir(tmp_path)
    assert names("a_*.pt") == ["a_1.pt", "a_2.pt"]


def test_several_places_and_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.pt", "b/1.pt")
    assert names(tmp_path / "a", tmp_path / "b", tmp_path / "a/1.pt") == ["a/1.pt", "b/1.pt"]


def test_a_link_to_a_checkpoint_is_not_a_second_one(tmp_path: Path) -> None:
    touch(tmp_path, "epoch_1.pt", "epoch_2.pt")
    (tmp_path / "last.pt").symlink_to(tmp_path / "epoch_2.pt")
    assert names(tmp_path) == ["epoch_1.pt", "epoch_2.pt"]


def test_optimizers_and_temporary_files_are_left_out_and_named(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "model_1.pt",
        "optimizer.pt",
        "optimizer_1.pt",
        "scheduler.pt",
        "rng_state.pth",
        "training_args.bin",
    )
    touch(tmp_path, ".hidden.pt", "tmp_model.pt", "model_2.tmp.pt", "optimistic.pt")
    heard = Heard()
    assert [file.name for file in find_checkpoints(tmp_path, progress=heard)] == [
        "model_1.pt",
        "optimistic.pt",
    ]
    assert len(heard.notices) == 1
    assert "not taken" in heard.notices[0]


def test_a_file_given_by_its_name_is_always_taken(tmp_path: Path) -> None:
    touch(tmp_path, "optimizer.pt", "weights.dat")
    assert names(tmp_path / "optimizer.pt") == ["optimizer.pt"]
    assert names(tmp_path / "weights.dat") == ["weights.dat"]


def test_parts_are_read_through_their_index(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    )
    assert names(tmp_path) == ["model.safetensors.index.json"]


@pytest.mark.parametrize(
    ("make", "spec", "what"),
    [
        ((), "", "no checkpoints in this folder"),
        (("readme.txt",), "", "no checkpoints in this folder"),
        (("optimizer.pt",), "", "only optimizer.pt"),
        (("a.pt",), "b.pt", "no such file"),
        (("a.pt",), "c*.pt", "match this pattern"),
        (("step/__0_0.distcp",), "step", "without .metadata"),
    ],
)
def test_nothing_there_is_an_error(tmp_path: Path, make: tuple[str, ...], spec: str, what: str) -> None:
    touch(tmp_path, *make)
    with pytest.raises(InputError) as error:
        find_checkpoints(tmp_path / spec if spec else tmp_path)
    assert what in error.value.what
    assert error.value.where is not None
    assert error.value.hint


def test_a_misspelt_file_shows_its_neighbours(tmp_path: Path) -> None:
    touch(tmp_path, "epoch_1.pt")
    with pytest.raises(InputError) as error:
        find_checkpoints(tmp_path / "epoch_01.pt")
    assert "epoch_1.pt" in str(error.value.hint)
