"""Which files are the checkpoints of a training, and in what order? The same answer for every command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_help import small_weights
from layout_table import MENDED, STABLE, Expected, Layout, other, w, write

from concept_monitor_cli.checkpoints import NoneUsableError, NotRecognisedError, Reader, Resolved, resolve
from concept_monitor_cli.checkpoints.load import Checkpoint
from concept_monitor_cli.errors import InputError


def resolved(folder: Path, layout: Layout, **options: Any) -> Resolved:
    """The checkpoints in a folder of this layout."""
    folder /= "run"
    folder.mkdir(exist_ok=True)
    write(folder, layout)
    return resolve([folder], Reader(), **options)


def kept(found: Resolved) -> Expected:
    return [(placed.file.name, placed.epoch) for placed in found.kept]


def reasons(found: Resolved) -> dict[str, str]:
    return {left.file.name: left.reason for left in found.left_out}


@pytest.mark.parametrize("name", [*STABLE, *MENDED])
def test_every_layout(tmp_path: Path, name: str) -> None:
    """The right files in the right order; every other one is named with a reason."""
    layout, expected = (STABLE | MENDED)[name]
    found = resolved(tmp_path, layout)
    assert kept(found) == expected
    assert found.question is None
    assert found.unusable == ()
    files = [item.file.path for item in (*found.kept, *found.left_out)]
    assert len(files) == len(set(files))
    assert all(left.reason for left in found.left_out)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_creation_and_of_arguments_counts_for_nothing(tmp_path: Path, reverse: bool) -> None:
    names = [f"net_{e}_{a}.pth" for e, a in ((5, 71), (10, 69), (15, 80))]
    for number, name in enumerate(sorted(names, reverse=reverse)):
        write(tmp_path, {name: w(number)})
    files = sorted((tmp_path / name for name in names), reverse=reverse)
    assert kept(resolve(files, Reader())) == kept(resolve([tmp_path], Reader()))


def test_folders_that_the_shell_expanded(tmp_path: Path) -> None:
    write(tmp_path, {f"epoch_{e}/model.pt": w(e) for e in (2, 11)})
    expected = [("epoch_2/model.pt", 2), ("epoch_11/model.pt", 11)]
    assert kept(resolve([tmp_path / "epoch_11", tmp_path / "epoch_2"], Reader())) == expected
    assert kept(resolve(sorted(tmp_path.glob("*/model.pt")), Reader())) == expected
    assert kept(resolve([str(tmp_path / "*" / "model.pt")], Reader())) == expected


# -- numbers ---------------------------------------------------------------------------------------


def test_what_stays_open_is_asked(tmp_path: Path) -> None:
    layout = {f"net_{e}_{a}.pth": w(e) for e, a in ((88, 71), (89, 73), (90, 72))}
    found = resolved(tmp_path, layout)
    assert found.question is not None
    assert "88, 89, 90 or 71, 73, 72" in found.question.what
    assert "--order 'net_{epoch}_*'" in str(found.question.hint)

    told = resolve([tmp_path / "run"], Reader(), order="net_{epoch}_*")
    assert told.question is None
    assert [epoch for _, epoch in kept(told)] == [88, 89, 90]
    other_way = resolve([tmp_path / "run"], Reader(), order="net_*_{epoch}")
    assert kept(other_way) == [("net_88_71.pth", 71), ("net_90_72.pth", 72), ("net_89_73.pth", 73)]


@pytest.mark.parametrize("order", ["net_*", "epoch", "{epoch}_{epoch}"])
def test_a_rule_that_is_none(tmp_path: Path, order: str) -> None:
    with pytest.raises(InputError) as error:
        resolved(tmp_path, {"net_1.pth": w(1)}, order=order)
    assert error.value.where == "--order"


def test_a_pattern_that_fits_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint is called like"):
        resolved(tmp_path, {"net_1.pth": w(1)}, order="model_{epoch}")


def test_by_name(tmp_path: Path) -> None:
    layout = {f"level_{n}/main/model_ep{e}_it0.pth": w(10 * n + e) for n in range(2) for e in (0, 160)}
    found = resolved(tmp_path, layout, order="name")
    assert kept(found) == [
        ("level_0/main/model_ep0_it0.pth", 0),
        ("level_0/main/model_ep160_it0.pth", 1),
        ("level_1/main/model_ep0_it0.pth", 2),
        ("level_1/main/model_ep160_it0.pth", 3),
    ]


def test_stages_are_said(tmp_path: Path) -> None:
    found = resolved(tmp_path, MENDED["OpenLTH"][0])
    assert any("3 stages are taken, each at its last epoch" in note for note in found.notes)
    assert reasons(found)["level_0/main/model_ep0_it0.pth"] == "is not the last of its stage"


def test_entries_that_are_not_believed_are_said(tmp_path: Path) -> None:
    found = resolved(tmp_path, MENDED["MoCo"][0])
    assert found.notes == ("epochs are those of the names; the entry 'epoch' in the files is 1 higher",)
    constant = resolved(tmp_path / "run", MENDED["the entry is the length of the training"][0])
    assert "is 90 in all of them" in constant.notes[0]


# -- copies and series -----------------------------------------------------------------------------


def test_copies_are_told_by_their_weights(tmp_path: Path) -> None:
    layout = {
        "epoch_1.pt": w(1, epoch=1),
        "epoch_2.pt": w(2, epoch=2),
        "best.pt": w(1, epoch=1),
        "last.pt": w(7, epoch=2),
        "final.pt": w(2, epoch=3),
    }
    found = resolved(tmp_path, layout)
    assert kept(found) == [("epoch_1.pt", 1), ("epoch_2.pt", 2)]
    assert reasons(found) == {
        "best.pt": "holds the same weights as epoch_1.pt (epoch 1)",
        "last.pt": "has other weights, but the same epoch as epoch_2.pt (epoch 2)",
        "final.pt": "holds the same weights as epoch_2.pt (epoch 2)",
    }


def test_equal_small_tensors_are_not_equal_weights(tmp_path: Path) -> None:
    """Nothing but a large weight differs: all of it is read where the small ones are equal."""
    one = {**small_weights(1), "large": torch.zeros(300, 300)}
    two = {**one, "large": torch.zeros(300, 300)}
    two["large"][299, 299] = 1
    found = resolved(
        tmp_path,
        {
            "epoch_1.pt": {"state_dict": one, "epoch": 1},
            "last.pt": {"state_dict": two, "epoch": 2},
            "best.pt": {"state_dict": one, "epoch": 5},
        },
    )
    assert kept(found) == [("epoch_1.pt", 1), ("last.pt", 2)]


def test_the_mask_tells_stages_apart(tmp_path: Path) -> None:
    """One-shot pruning: the same weights under other masks are other weights."""

    def pruned(share: float) -> dict[str, torch.Tensor]:
        weights = small_weights(0)
        torch.manual_seed(int(100 * share))
        first = weights.pop("0.weight")
        return {**weights, "0.weight_orig": first, "0.weight_mask": (torch.rand(first.shape) > share).float()}

    found = resolved(
        tmp_path, {"epoch_1.pt": pruned(0.2), "last.pt": {"state_dict": pruned(0.8), "epoch": 2}}
    )
    assert "same weights" not in reasons(found).get("last.pt", "")


def test_broken_weights_do_not_take_an_epoch(tmp_path: Path) -> None:
    broken = small_weights(1)
    broken["0.weight"][0] = float("nan")
    layout = {"epoch=1.ckpt": {"state_dict": broken, "epoch": 1}, "epoch=1-v1.ckpt": w(1, epoch=1)}
    assert kept(resolved(tmp_path, layout)) == [("epoch=1-v1.ckpt", 1)]


def test_a_file_that_cannot_be_used_takes_no_epoch(tmp_path: Path) -> None:
    good = w(1)
    found = resolved(tmp_path, {"a_epoch_1.pt": b"not a checkpoint" * 40, "epoch_1.pt": good})
    assert kept(found) == [("epoch_1.pt", 1)]
    assert [item.file.name for item in found.unusable] == ["a_epoch_1.pt"]


def test_series_are_said_and_can_be_chosen(tmp_path: Path) -> None:
    layout = MENDED["two networks of accelerate"][0]
    found = resolved(tmp_path, layout)
    assert "epoch_*/pytorch_model (2) is taken, not epoch_*/pytorch_model_1 (2)" in found.warnings[0]
    assert "--series" in found.warnings[0]
    run = tmp_path / "run"
    for wanted in ("epoch_*/pytorch_model_1", "model_1", "*_1"):
        second = resolve([run], Reader(), series=wanted)
        assert kept(second) == [("epoch_0/pytorch_model_1.bin", 0), ("epoch_1/pytorch_model_1.bin", 1)]
    glob = resolve([str(run / "*" / "pytorch_model_1.bin")], Reader())
    assert kept(glob) == kept(second)
    with pytest.raises(InputError) as error:
        resolve([run], Reader(), series="no such")
    assert "epoch_*/pytorch_model_1" in str(error.value.hint)


def test_another_architecture_can_be_chosen(tmp_path: Path) -> None:
    layout = {**{f"epoch_{e}.pt": w(e) for e in (1, 2, 3)}, **{f"epoch_{e}.pt": other(e) for e in (4, 5)}}
    found = resolved(tmp_path, layout)
    assert [epoch for _, epoch in kept(found)] == [1, 2, 3]
    assert len(found.warnings) == 1
    second = resolve([tmp_path / "run"], Reader(), series="from block.")
    assert [epoch for _, epoch in kept(second)] == [4, 5]


def test_a_watcher_stays_with_its_series(tmp_path: Path) -> None:
    layout = {
        **{f"one_{e}.pt": w(e) for e in (1, 2)},
        **{f"two_{e}.pt": w(50 + e) for e in range(1, 6)},
    }
    assert resolved(tmp_path, layout).kept[0].file.name == "two_1.pt"
    run = tmp_path / "run"
    found = resolve([run], Reader(), before={run / "one_1.pt"})
    assert [name for name, _ in kept(found)] == ["one_1.pt", "one_2.pt"]


# -- what is no checkpoint -------------------------------------------------------------------------


def test_side_files_are_no_failure(tmp_path: Path) -> None:
    def known(checkpoint: Checkpoint) -> str:
        if "0.weight" not in checkpoint.state_dict or "1.weight" not in checkpoint.state_dict:
            raise NotRecognisedError("no known architecture fits")
        return "small"

    write(
        tmp_path,
        {
            "epoch_1.pt": w(1),
            "epoch_2.pt": {"other.weight": torch.ones(3, 3)},
            "prototypes.pt": {"0.weight": torch.ones(3, 3)},
            "results.pt": {"accuracy": 0.7},
        },
    )
    found = resolve([tmp_path], Reader(known))
    assert kept(found) == [("epoch_1.pt", 1)]
    # Called as the checkpoints are: that it cannot be used must be seen.
    assert [item.file.name for item in found.unusable] == ["epoch_2.pt"]
    assert set(reasons(found)) == {"prototypes.pt", "results.pt"}
    assert "prototypes.pt, results.pt" in found.notes[0]


def test_side_files_are_no_failure_where_the_shell_named_them(tmp_path: Path) -> None:
    """`ckpts/*` names every file; another network that was named is meant, though."""

    def known(checkpoint: Checkpoint) -> str:
        if "1.weight" not in checkpoint.state_dict:
            raise NotRecognisedError("no known architecture fits")
        return "small"

    write(
        tmp_path,
        {
            "epoch_1.pt": w(1),
            "results.pt": {"accuracy": 0.7},
            "optimizer.pt": {"state": {}, "param_groups": []},
            "mask.pt": {"0.weight": torch.ones(3, 3)},
            "level_1_mask.pt": {"0.weight": torch.ones(3, 3)},
            "prototypes.pt": {"0.weight": torch.ones(3, 3)},
        },
    )
    found = resolve(sorted(tmp_path.iterdir()), Reader(known))
    assert kept(found) == [("epoch_1.pt", 1)]
    assert set(reasons(found)) == {"results.pt"}
    for name in ("optimizer.pt", "mask.pt", "level_1_mask.pt"):
        assert name in found.notes[0]
    assert [item.file.name for item in found.unusable] == ["prototypes.pt"]
    with pytest.raises(NoneUsableError):
        resolve([tmp_path / "mask.pt"], Reader(known))


def test_all_folds_are_taken_where_the_order_is_given(tmp_path: Path) -> None:
    layout = MENDED["folds of a file each"][0]
    found = resolved(tmp_path, layout)
    assert "fold_0/best (1) is taken, not fold_1/best (1), fold_2/best (1)" in found.warnings[0]
    assert kept(resolve([tmp_path / "run"], Reader(), series="fold_2")) == [("best.pt", 0)]
    ordered = resolve([tmp_path / "run"], Reader(), order="name")
    assert kept(ordered) == [(f"fold_{f}/best.pt", f) for f in range(3)]


def test_other_frameworks_are_named(tmp_path: Path) -> None:
    layout = {"epoch_1.pt": w(1), "model.pdparams": b"x", "epoch_1.ckpt.gz": b"x", "model.onnx": b"x"}
    notes = " ".join(resolved(tmp_path, layout).notes)
    for name in ("model.pdparams", "epoch_1.ckpt.gz", "model.onnx"):
        assert name in notes
    (tmp_path / "run/epoch_1.pt").unlink()
    with pytest.raises(InputError) as error:
        resolve([tmp_path / "run"], Reader())
    assert "model.pdparams" in error.value.what


def test_none_can_be_used(tmp_path: Path) -> None:
    with pytest.raises(NoneUsableError) as error:
        resolved(tmp_path, {"epoch_1.pt": b"x" * 600, "epoch_2.pt": b"x" * 600})
    assert str(error.value.where).endswith("epoch_1.pt")
    assert len(error.value.found.unusable) == 2


# -- cost ------------------------------------------------------------------------------------------


def test_weights_are_digested_only_to_tell_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = Reader._digest

    def counted(self: Reader, file: Any) -> str | None:
        read.append(file.name)
        return digest(self, file)

    monkeypatch.setattr(Reader, "_digest", counted)
    layout = {f"epoch_{e}.pt": w(e, epoch=e) for e in range(20)}
    resolved(tmp_path, {**layout, "last.pt": w(30, epoch=20)})
    assert read == []
    write(tmp_path / "run", {"best.pt": w(7, epoch=7)})
    resolve([tmp_path / "run"], Reader())
    assert set(read) == {"best.pt", "epoch_7.pt"}


def test_a_file_is_opened_again_only_when_it_changed(tmp_path: Path) -> None:
    opened: list[str] = []

    def identify(checkpoint: Checkpoint) -> str:
        opened.append(checkpoint.path.name)
        return "small"

    reader = Reader(identify)
    write(tmp_path, {"epoch_1.pt": w(1), "epoch_2.pt": w(2)})
    resolve([tmp_path], reader)
    resolve([tmp_path], reader)
    assert sorted(opened) == ["epoch_1.pt", "epoch_2.pt"]
    write(tmp_path, {"epoch_2.pt": w(3)})
    os.utime(tmp_path / "epoch_2.pt", ns=(1, 1))
    resolve([tmp_path], reader)
    assert sorted(opened) == ["epoch_1.pt", "epoch_2.pt", "epoch_2.pt"]


def test_a_series_stays_through_many_files(tmp_path: Path) -> None:
    """Whatever lands in whatever order, a file that was numbered keeps its epoch."""
    names = [f"checkpoint-{s}/model.pt" for s in (10, 20, 30)]
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        write(tmp_path, {name: w(number)})
        found = resolve([tmp_path], Reader())
        now = {str(placed.file.path): placed.epoch for placed in found.kept}
        assert seen.items() <= now.items()
        seen = now
    assert sorted(seen.values()) == [10, 20, 30]
