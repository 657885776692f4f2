"""`dissect_model`: the tables of a `dissect` of the saved network, and the network left as it was."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import concept_monitor_cli as cmon
from concept_monitor_cli.cli.app import run as command
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.run import RunFolder

from .conftest import LiveBench, own_network, small_network

SIZE = {"input_size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop": 1.0}
SIZE_OPTIONS = ("--input-size", 32, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--crop", 1)


def pooled(bench: LiveBench, out: str = "live", epoch: int = 0) -> torch.Tensor:
    """What the store has of the run's layer."""
    record = next(
        record for _, record in RunFolder(bench.root / out).table_records() if record.epoch == epoch
    )
    kind, _, digest = record.recording.partition("/")
    with h5py.File(bench.root / "cache-live" / kind / digest[:2] / f"{digest}.h5") as file:
        return torch.from_numpy(file["pooled"][:])


def by_hand(bench: LiveBench, network: nn.Module, layer: str) -> torch.Tensor:
    """Mean activations of a layer, `(N, C)`, of images of 32 pixels normalised to -1 .. 1."""
    import concept_monitor_cli._torchvision  # noqa: F401  isort: skip
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.Resize(32),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    probe = load_probe(str(bench.root / "photos"))
    kept: list[torch.Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o))
    with torch.inference_mode():
        network.eval()(torch.stack([transform(probe.image(number)) for number in range(len(probe))]))
    handle.remove()
    return kept[0].mean((2, 3))


# -- the same tables ----------------------------------------------------------------


def save(bench: LiveBench, network: nn.Module, epoch: int) -> None:
    bench.checkpoints.mkdir(exist_ok=True)
    torch.save({"state_dict": network.state_dict(), "epoch": epoch}, bench.checkpoints / f"epoch_{epoch}.pth")


def test_tables_are_those_of_the_saved_network(bench: LiveBench) -> None:
    for epoch in (0, 3):
        network = small_network(epoch).train(epoch == 0)
        save(bench, network, epoch)
        everything_on = {"floors": True, "stability": True}
        cmon.dissect_model(network, **bench.inputs(layers=["layer1", "layer3"], **everything_on), epoch=epoch)
    dissected = bench.dissected("--floors", "--stability", layer="layer1,layer3")
    assert len([name for name in dissected if name.startswith("untrained/")]) == 2
    assert bench.all_tables("live") == dissected


def test_what_is_seen_in_memory_is_known_to_a_dissect_of_the_checkpoint(
    bench: LiveBench, capsys: Any
) -> None:
    network = small_network()
    save(bench, network, 0)
    cmon.dissect_model(network, **bench.inputs(cache_dir=bench.root / "cache"))
    capsys.readouterr()
    assert (
        command(
            [
                str(word)
                for word in bench.dissect("--json", "-q", "--no-floors", "--no-stability", layer="layer1")
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["forward_passes"] == 0


def wrapped(network: nn.Module) -> nn.Module:
    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network

    return Learner()


@pytest.mark.parametrize(
    ("wrap", "layer"),
    [
        (nn.DataParallel, "layer1"),
        (torch.compile, "layer1"),
        (wrapped, "layer1"),
        (wrapped, "model.layer1"),
        (lambda network: network.to(memory_format=torch.channels_last), "layer1"),
    ],
)
def test_wrappers_are_looked_through(bench: LiveBench, wrap: Callable[..., nn.Module], layer: str) -> None:
    network = small_network()
    save(bench, network, 0)
    cmon.dissect_model(wrap(network), **bench.inputs(layers=layer))
    assert bench.all_tables("live") == bench.dissected()


def masked(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            prune.random_unstructured(module, "weight", 0.3)


def halved(network: nn.Module) -> None:
    network.bfloat16()


@pytest.mark.parametrize("change", [masked, halved])
def test_weights_that_are_kept_in_another_form(bench: LiveBench, change: Callable[..., None]) -> None:
    network = small_network()
    change(network)
    save(bench, network, 0)
    cmon.dissect_model(network, **bench.inputs())
    assert bench.all_tables("live") == bench.dissected()


def test_a_network_that_code_builds_is_that_of_the_option_model(bench: LiveBench, factory: str) -> None:
    network = own_network()
    save(bench, network, 0)
    cmon.dissect_model(network, **bench.inputs(layers="norm", architecture=factory, floors=True, **SIZE))
    dissected = bench.dissected("--floors", "--model", factory, *SIZE_OPTIONS, layer="norm")
    assert bench.all_tables("live") == dissected
    assert any(name.startswith("untrained/") for name in dissected)


def test_a_fitted_basis_is_fitted_to_this_network(bench: LiveBench) -> None:
    network = small_network()
    save(bench, network, 0)
    cmon.dissect_model(network, **bench.inputs(bases="channels,pca:3"))
    assert bench.all_tables("live") == bench.dissected("--basis", "channels,pca:3")


def test_kept_weights_can_be_dissected_into_the_same_run(bench: LiveBench) -> None:
    network = small_network()
    run = cmon.dissect_model(network, **bench.inputs())
    kept = bench.root / "live" / "weights" / "epoch_0.pth"
    assert run.checkpoints[0].path == str(kept)
    words = bench.dissect("-q", "--no-stability", out="live", layer="layer2")
    assert command([str(kept if word == bench.checkpoints else word) for word in words]) == 0
    assert cmon.open_run(bench.root / "live").layers == ["layer1", "layer2"]
    cmon.dissect_model(network, **bench.inputs(out="without", keep_weights=False))
    assert not (bench.root / "without" / "weights").exists()


# -- what `dissect` does not know ----------------------------------------------------------------


def test_an_unknown_network_is_run_as_it_is(bench: LiveBench) -> None:
    network = own_network()
    network.norm.running_mean.uniform_(-1, 1)
    run = cmon.dissect_model(network, **bench.inputs(layers="norm", floors=True, **SIZE))
    np.testing.assert_allclose(pooled(bench), by_hand(bench, own_copy(network), "norm"), atol=1e-5)
    assert not (bench.root / "live" / "untrained").exists()
    assert any(note.startswith("no floors") for note in run.notices)


def own_copy(network: Any) -> nn.Module:
    other = own_network(negative=network.negative)
    other.load_state_dict(network.state_dict())
    return other


def test_weights_do_not_say_what_is_done_with_them(bench: LiveBench) -> None:
    """Two networks of one class with the same weights, which compute different things, in one store."""
    for out, negative in (("plain", False), ("negative", True)):
        network = own_network(negative=negative)
        cmon.dissect_model(network, **bench.inputs(out, layers="drop", **SIZE))
        np.testing.assert_allclose(pooled(bench, out), by_hand(bench, own_copy(network), "drop"), atol=1e-5)
    assert not torch.allclose(pooled(bench, "plain"), pooled(bench, "negative"))


def upside_down(block: Any, x: torch.Tensor) -> torch.Tensor:
    return type(block).forward(block, -x)


def test_a_known_network_that_was_changed_is_run_as_it_is(bench: LiveBench) -> None:
    network = small_network()
    first = network.layer1[0]
    first.forward = MethodType(upside_down, first)
    run = cmon.dissect_model(network, **bench.inputs(**SIZE))
    assert any("computes something else" in note for note in run.notices)
    np.testing.assert_allclose(pooled(bench), by_hand(bench, network, "layer1"), atol=1e-4)
    assert not np.allclose(pooled(bench), by_hand(bench, small_network(), "layer1"), atol=1e-2)


def test_a_forward_that_would_run_the_network_in_use_is_refused(bench: LiveBench) -> None:
    network = small_network()
    inner = network.layer1.forward
    network.layer1.forward = lambda x: inner(-x)
    before = everything(network)
    with pytest.raises(cmon.InputError, match="forward was replaced"):
        cmon.dissect_model(network, **bench.inputs())
    # accelerate does so for mixed precision, but says what was there.
    network.layer1._original_forward = inner
    save(bench, network, 0)
    cmon.dissect_model(network, **bench.inputs())
    # Before the command is run, which builds a network of its own and draws its weights.
    assert same(everything(network), before)
    assert bench.all_tables("live") == bench.dissected()


def test_code_that_builds_another_network_is_refused(bench: LiveBench, factory: str) -> None:
    with pytest.raises(cmon.InputError, match="something else"):
        cmon.dissect_model(
            own_network(negative=True), **bench.inputs(layers="drop", architecture=factory, **SIZE)
        )
    assert not (bench.root / "live" / "tables").exists()


# -- left as it was ----------------------------------------------------------------


def everything(network: nn.Module) -> dict[str, Any]:
    """What could be changed of a network, and of the program around it."""
    state = np.random.get_state()  # noqa: NPY002
    return {
        "modes": {name: module.training for name, module in network.named_modules()},
        "hooks": [
            list(getattr(module, place).items())
            for module in network.modules()
            for place in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ],
        "parameters": {
            name: (id(value), value.data_ptr(), value.stride(), value._version, value.requires_grad)
            for name, value in network.named_parameters()
        },
        "values": {name: value.clone() for name, value in network.state_dict().items()},
        "gradients": {
            name: None if value.grad is None else (id(value.grad), value.grad.clone())
            for name, value in network.named_parameters()
        },
        "buffers": {name: (id(value), value._version) for name, value in network.named_buffers()},
        "attributes": {name: value for name, value in vars(network).items() if isinstance(value, int | bool)},
        "random": (random.getstate(), state[1].tolist(), state[2:], torch.get_rng_state().tolist()),
        "modes of torch": (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype(),
            torch.is_inference_mode_enabled(),
        ),
    }


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(value, two[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(same(*pair) for pair in zip(one, two, strict=True))
    return bool(one == two)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("how", ["well", "no such layer", "cannot be run", "interrupted"])
def test_the_network_is_left_as_it_was(
    bench: LiveBench, monkeypatch: pytest.MonkeyPatch, known: bool, how: str
) -> None:
    network: Any = small_network() if known else own_network()
    if how == "cannot be run" and known:
        pytest.skip("a known network can be run")
    layer = "layer1" if known else "norm"
    network.train()
    network.get_submodule("layer2" if known else "norm").eval()
    network(torch.randn(4, 3, 32, 32)).sum().backward()
    next(network.parameters()).grad = None
    list(network.parameters())[1].requires_grad_(False)
    called: list[str] = []
    network.register_forward_hook(lambda *_: called.append("forward"))
    network.get_submodule(layer).register_forward_pre_hook(lambda *_: called.append("before"))
    network.get_submodule(layer).register_full_backward_hook(lambda *_: called.append("backward"))
    network.fails = how == "cannot be run"
    if how == "interrupted":
        # In the middle of the forward pass over the images.
        from concept_monitor_cli.record.consumers import PooledWriter

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(PooledWriter, "update", interrupted)
    before = everything(network)
    arguments = bench.inputs(layers="no_such" if how == "no such layer" else layer, **SIZE)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        if how == "well":
            cmon.dissect_model(network, **arguments)
        else:
            with pytest.raises(KeyboardInterrupt if how == "interrupted" else cmon.CmonError):
                cmon.dissect_model(network, **arguments)
    after = everything(network)
    for what, value in before.items():
        assert same(value, after[what]), what
    assert not called


def test_hooks_that_are_left_out_are_named(bench: LiveBench) -> None:
    network = small_network()
    network.layer1.register_forward_hook(lambda module, inputs, output: output * 0)
    save(bench, network, 0)
    run = cmon.dissect_model(network, **bench.inputs())
    assert "1 hooks of the network are not run on the probing images" in run.notices
    assert bench.all_tables("live") == bench.dissected()


def test_the_callers_modes_do_not_matter(bench: LiveBench) -> None:
    network = small_network()
    save(bench, network, 0)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            cmon.dissect_model(network, **bench.inputs())
    finally:
        torch.set_default_dtype(torch.float32)
    assert bench.all_tables("live") == bench.dissected()


# -- images and words that are in memory ----------------------------------------------------------------


def test_images_and_words_in_memory_are_those_of_the_files(bench: LiveBench) -> None:
    probe = load_probe(str(bench.root / "photos"))
    names = sorted(probe.ids)
    photos = [probe.image(probe.ids.index(name)) for name in names]
    words = (bench.root / "words.txt").read_text().split("\n")[:-1]
    network = small_network()
    files = cmon.dissect_model(network, **bench.inputs("files"))
    for out, images in {
        "list": photos,
        "arrays": [np.array(photo) for photo in photos],
        "array": np.stack([np.array(photo) for photo in photos]),
        "tensor": torch.from_numpy(np.stack([np.array(photo) for photo in photos])),
    }.items():
        run = cmon.dissect_model(network, **bench.inputs(out, images=images, concepts=words))
        assert run.info["probe"]["images"] == 40
        assert run.info["concepts"]["digest"] == files.info["concepts"]["digest"]
        image = run.image(run.image_names[7])
        assert any(np.array_equal(np.array(image), np.array(photo)) for photo in photos)


def test_words_with_categories(bench: LiveBench) -> None:
    kinds = {"red": "color", "dog": "object", "sky": "scene", "orange": "color"}
    run = cmon.dissect_model(small_network(), **bench.inputs(concepts=kinds))
    table = run.concepts()
    table = table[table["concept"] != ""]
    assert len(table) > 30
    assert (table["category"] == table["concept"].map(kinds)).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.float32)}, r"float32 of shape \(2, 8, 8, 3\) are no images"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, r"uint8 of shape \(2, 3, 8, 8\)"),
        ({"images": []}, "no images"),
        ({"images": [3]}, "image 0 is a int"),
        ({"concepts": [3]}, "3 is no word"),
        ({"similarty": "cos"}, "no setting 'similarty'"),
        ({"trust_pickle": True}, "no setting 'trust_pickle'"),
        ({"layers": "layer9"}, "no layer 'layer9'"),
        ({"null": "untrained", "layers": "norm"}, "fresh weights"),
    ],
)
def test_bad_input_is_refused_with_words(bench: LiveBench, changes: dict[str, Any], said: str) -> None:
    network = own_network() if changes.get("layers") == "norm" else small_network()
    with pytest.raises(cmon.InputError, match=said) as error:
        cmon.dissect_model(network, **bench.inputs(**{**changes}))
    assert len(error.value.lines()) <= 3
    assert not (bench.root / "live" / "run.json").exists()


def test_weights_that_are_no_numbers_are_refused(bench: LiveBench) -> None:
    network = small_network()
    next(network.parameters()).data.fill_(float("nan"))
    with pytest.raises(cmon.InputError, match="NaN"):
        cmon.dissect_model(network, **bench.inputs())


def test_a_network_that_cannot_be_copied_is_refused(bench: LiveBench, tmp_path: Path) -> None:
    network: Any = own_network()
    with (
        (tmp_path / "log").open("w") as network.log,
        pytest.raises(cmon.InputError, match="cannot be copied"),
    ):
        cmon.dissect_model(network, **bench.inputs(layers="norm"))
