from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_help import small_weights

from concept_monitor_cli.checkpoints import (
    CheckpointFile,
    Dated,
    find_checkpoints,
    load_checkpoint,
    order_by_epoch,
    weights_digest,
)
from concept_monitor_cli.checkpoints.names import epoch_in_name


def dated(name: str, epoch: int | None, step: int | None = None, digest: str | None = None) -> Dated:
    file = CheckpointFile(Path(name), name, epoch_in_name(Path(name).stem))
    return Dated(file, epoch, step, "file" if epoch is not None else None, digest)


def kept(*items: Dated) -> list[tuple[str, int | None]]:
    return [(item.file.name, item.epoch) for item in order_by_epoch(items).kept]


def test_by_epoch_not_by_name() -> None:
    assert kept(dated("a.pt", 3), dated("b.pt", 1), dated("c.pt", 20)) == [
        ("b.pt", 1),
        ("a.pt", 3),
        ("c.pt", 20),
    ]


def test_best_and_last_repeat_an_epoch() -> None:
    order = order_by_epoch(
        [
            dated("best.pt", 2, digest="two"),
            dated("epoch_1.pt", 1, digest="one"),
            dated("epoch_2.pt", 2, digest="two"),
            dated("epoch_3.pt", 3, digest="three"),
            dated("last.pt", 3, digest="other"),
        ]
    )
    assert [item.file.name for item in order.kept] == ["epoch_1.pt", "epoch_2.pt", "epoch_3.pt"]
    reasons = {item.file.name: item.reason for item in order.left_out}
    assert reasons["best.pt"] == "holds the same weights as epoch_2.pt (epoch 2)"
    assert reasons["last.pt"] == "has other weights, but the same epoch as epoch_3.pt (epoch 3)"


def test_best_and_last_alone_are_kept() -> None:
    assert kept(dated("best.pt", 2), dated("last.pt", 3)) == [("best.pt", 2), ("last.pt", 3)]


def test_without_epochs_they_are_counted_and_it_is_said() -> None:
    order = order_by_epoch([dated("a.pt", None), dated("b.pt", None)])
    assert [item.epoch for item in order.kept] == [0, 1]
    assert "counted from 0" in order.notes[0]
    assert order_by_epoch([dated("a.pt", None)]).notes == ()


def test_one_without_an_epoch_among_others_is_left_out() -> None:
    order = order_by_epoch(
        [dated("epoch_1.pt", 1, digest="x"), dated("final.pt", None), dated("z.pt", None, digest="x")]
    )
    assert [item.file.name for item in order.kept] == ["epoch_1.pt"]
    assert "tells no epoch" in order.left_out[0].reason
    assert "same weights as epoch_1.pt" in order.left_out[1].reason


def test_steps_tell_checkpoints_of_an_epoch_apart() -> None:
    order = order_by_epoch(
        [dated("a.pt", 0, 100), dated("b.pt", 0, 200), dated("c.pt", 1, 300), dated("last.pt", 1, 300)]
    )
    assert [(item.file.name, item.epoch) for item in order.kept] == [
        ("a.pt", 100),
        ("b.pt", 200),
        ("c.pt", 300),
    ]
    assert [item.file.name for item in order.left_out] == ["last.pt"]
    assert "steps" in order.notes[0]


def test_steps_are_not_used_where_epochs_do() -> None:
    assert kept(dated("a.pt", 0, 100), dated("b.pt", 1, 200)) == [("a.pt", 0), ("b.pt", 1)]


def test_two_of_one_epoch_without_steps() -> None:
    order = order_by_epoch([dated("a.pt", 1), dated("b.pt", 1)])
    assert [item.file.name for item in order.kept] == ["a.pt"]
    assert order.left_out[0].reason == "is of the same epoch as a.pt (epoch 1)"


def test_epochs_always_differ() -> None:
    items = [dated(f"{n}.pt", n % 3, step) for n, step in enumerate([5, 5, None, 5, 7, 8])]
    order = order_by_epoch(items)
    epochs = [item.epoch for item in order.kept]
    assert epochs == sorted(set(epochs))
    assert len(order.kept) + len(order.left_out) == len(items)


@pytest.mark.parametrize("content", [{"global_step": 10}, {}])
def test_folders_tell_the_epoch_where_files_do_not(tmp_path: Path, content: dict[str, int]) -> None:
    for epoch in (2, 11):
        (tmp_path / f"epoch_{epoch}").mkdir()
        torch.save({"state_dict": small_weights(epoch), **content}, tmp_path / f"epoch_{epoch}" / "model.pt")
    items = []
    for file in find_checkpoints(tmp_path):
        loaded = load_checkpoint(file.path)
        items.append(Dated.of(file, loaded, weights_digest(loaded.state_dict)))
    assert kept(*items) == [("epoch_2/model.pt", 2), ("epoch_11/model.pt", 11)]
