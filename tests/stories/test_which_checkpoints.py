"""Every command takes the same checkpoints, in the same order, and says the same of the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models import cifar
from concept_monitor_cli.options import DissectOptions, Shard
from concept_monitor_cli.progress import Silent
from concept_monitor_cli.study import Study
from stories.conftest import Answer, Bench, cmon, make_bench  # noqa: F401


def weights(seed: int, name: str = "cifar_resnet20") -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return cifar.model_factory(name)(num_classes=10).state_dict()


def write(folder: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / name)
    return folder


def openlth(folder: Path) -> Path:
    files: dict[str, object] = {
        f"level_{n}/main/model_ep{e}_it0.pth": weights(10 * n + e) for n in range(2) for e in (0, 160)
    }
    ones = {key: torch.ones_like(value) for key, value in weights(0).items() if value.ndim > 1}
    return write(folder, {**files, **{f"level_{n}/main/pruned_{n}.pth": ones for n in range(2)}})


def masks(folder: Path) -> Path:
    ones = {key: torch.ones_like(value) for key, value in weights(0).items() if value.ndim > 1}
    return write(
        folder, {"level_0/a.pth": ones, **{f"level_0/model_ep{e}_it0.pth": weights(e) for e in (0, 160)}}
    )


def two_architectures(folder: Path) -> Path:
    more = {f"epoch_{e}.pt": weights(e, "cifar_resnet56") for e in (3, 4)}
    return write(folder, {**{f"epoch_{e}.pt": weights(e) for e in (1, 2)}, **more})


def diverged(folder: Path) -> Path:
    broken = weights(2)
    broken["conv1.weight"][0] = float("nan")
    return write(folder, {"epoch_1.pt": weights(1), "epoch_2.pt": broken, "last.pt": weights(1)})


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)


def study(folder: Path, **options: object) -> Study:
    return Study(DissectOptions(checkpoints=(str(folder),), layers=("layer1",), **options), Heard())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "expected", "code"),
    [
        (openlth, [("level_0/main/model_ep160_it0.pth", 0), ("level_1/main/model_ep160_it0.pth", 1)], 0),
        (masks, [("model_ep0_it0.pth", 0), ("model_ep160_it0.pth", 160)], 0),
        (two_architectures, [("epoch_1.pt", 1), ("epoch_2.pt", 2)], 0),
        (diverged, [("epoch_1.pt", 1), ("epoch_2.pt", 2)], 3),
    ],
)
def test_checkpoints_and_dissect_agree(
    tmp_path: Path,
    cmon: Callable[..., Answer],  # noqa: F811
    make: Callable[[Path], Path],
    expected: list[tuple[str, int]],
    code: int,
) -> None:
    folder = make(tmp_path / "ckpts")
    answer = cmon("checkpoints", folder, "--json")
    assert answer.code == code, answer.err
    listed = json.loads(answer.out)["checkpoints"]
    taken = [(row["name"], row["epoch"]) for row in listed if row["epoch"] is not None]
    opened = study(folder)
    assert taken == [(file.name, file.epoch) for file in opened.files] == expected
    assert all(row["left_out"] or row["problem"] for row in listed if row["epoch"] is None)
    assert opened.own_unreadable == []
    # So do the shares of several processes, together.
    shares = [study(folder, shard=Shard(index, 2)).files for index in (1, 2)]
    assert sorted(file.epoch for share in shares for file in share) == [epoch for _, epoch in expected]


def test_a_series_is_chosen_on_the_command_line(tmp_path: Path, cmon: Callable[..., Answer]) -> None:  # noqa: F811
    folder = two_architectures(tmp_path / "ckpts")
    answer = cmon("checkpoints", folder, "--series", "resnet56", "--json")
    rows = json.loads(answer.out)["checkpoints"]
    assert [(row["name"], row["epoch"]) for row in rows][:2] == [("epoch_3.pt", 3), ("epoch_4.pt", 4)]
    assert [file.epoch for file in study(folder, series="resnet56").files] == [3, 4]
    heard = Heard()
    told = Study(DissectOptions(checkpoints=(str(folder),), layers=("layer1",)), heard)
    assert [file.epoch for file in told.files] == [1, 2]
    assert "several series" in heard.warnings[0]
    assert heard.warnings[0] in told.notices  # so it is kept in run.json


def test_an_open_question_stops_dissect_and_is_shown(tmp_path: Path, cmon: Callable[..., Answer]) -> None:  # noqa: F811
    pairs = ((88, 71), (89, 73), (90, 72))
    folder = write(tmp_path / "ckpts", {f"net_{e}_{a}.pth": weights(e) for e, a in pairs})
    answer = cmon("checkpoints", folder)
    assert answer.code == 2
    assert "--order 'net_{epoch}_*'" in answer.err
    assert "net_88_71.pth" in answer.out
    with pytest.raises(InputError, match="which number"):
        _ = study(folder).files
    assert [file.epoch for file in study(folder, order="net_{epoch}_*").files] == [88, 89, 90]


def test_a_file_that_comes_later_does_not_renumber_in_silence(
    tmp_path: Path,
    cmon: Callable[..., Answer],  # noqa: F811
) -> None:
    bench = make_bench(tmp_path, ())
    bench.checkpoints.mkdir()
    first = bench.add(5)
    first.rename(bench.checkpoints / "ckpt_5.pth")
    content = torch.load(bench.checkpoints / "ckpt_5.pth")
    torch.save({**content, "epoch": 90}, bench.checkpoints / "ckpt_5.pth")
    answer = cmon(*bench.dissect("-q"))
    assert answer.code == 0, answer.err
    # Seen alone its entry is believed; a second one with the same entry shows that it is none of an epoch.
    torch.save({**content, "epoch": 90}, bench.checkpoints / "ckpt_10.pth")
    again = cmon(*bench.dissect("--dry-run"))
    assert "ckpt_5.pth is epoch 5 beside" in again.err
    assert "epoch 90 in the run" in again.err.replace("\n", " ")
