from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models import cifar, constructors, user_code
from concept_monitor_cli.models.build import (
    ModelSource,
    compare,
    constructor,
    load_weights,
    resolve_model,
    shapes_of,
)


def built(library: str, name: str, **kwargs: object) -> nn.Module:
    maker = constructor(library, name)
    assert maker is not None
    torch.manual_seed(3)
    model = maker.factory(**kwargs)
    for module in model.modules():  # statistics of their own: fresh ones would hide that they were not loaded
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def meta(library: str, name: str, **kwargs: object) -> dict[str, Tensor]:
    maker = constructor(library, name)
    assert maker is not None
    return {key: torch.empty(shape, device="meta") for key, shape in maker.shapes(**kwargs).items()}


# -- the whole way -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "name", "kwargs", "pixels"),
    [
        ("torchvision", "resnet18", {"num_classes": 10}, 64),
        ("torchvision", "mobilenet_v3_small", {"num_classes": 3}, 64),
        ("torchvision", "vit_b_32", {"num_classes": 3, "image_size": 64}, 64),
        ("timm", "test_vit", {"num_classes": 4}, 160),
        ("timm", "vit_tiny_patch16_224", {"num_classes": 4, "global_pool": "avg", "img_size": 32}, 32),
        ("timm", "test_convnext", {"num_classes": 4, "in_chans": 1}, 64),
        ("timm", "swin_tiny_patch4_window7_224", {"num_classes": 2}, 224),
        ("cmon", "preact_resnet18", {"num_classes": 6}, 32),
        ("cmon", "cifar_resnet18", {"num_classes": 6, "head": "linear"}, 32),
    ],
)
def test_the_network_that_comes_back_computes_the_same(
    library: str, name: str, kwargs: dict[str, object], pixels: int
) -> None:
    original = built(library, name, **kwargs)
    state_dict = original.state_dict()
    source = resolve_model(None, state_dict)
    assert (source.library, source.name) == (library, name)
    assert source.num_classes == kwargs["num_classes"]
    model = source.build()
    source.load(model, state_dict)
    x = torch.randn(2, source.in_chans, pixels, pixels)
    with torch.inference_mode():
        assert torch.equal(model(x), original(x))
    assert not model.training


def test_restoring_is_building_and_loading() -> None:
    for library, name in (("timm", "test_vit"), ("cmon", "cifar_resnet20"), ("torchvision", "mobilenet_v2")):
        state_dict = built(library, name, num_classes=4).state_dict()
        source = resolve_model(f"{library}/{name}", state_dict)
        slow = source.build()
        source.load(slow, state_dict)
        quick = source.restore(state_dict)
        assert not quick.training
        for (key, one), other in zip(slow.state_dict().items(), quick.state_dict().values(), strict=True):
            assert torch.equal(one, other), key
        for (key, one), other in zip(slow.named_buffers(), quick.buffers(), strict=True):
            assert torch.equal(one, other), key
        assert all(parameter.requires_grad for parameter in quick.parameters())


def test_grey_images_with_torchvision() -> None:
    original = built("torchvision", "resnet18", num_classes=4)
    original.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    source = resolve_model(None, original.state_dict())
    assert source.in_chans == 1
    assert "1 input channels" in source.describe()
    model = source.build()
    source.load(model, original.state_dict())
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(model(x), original(x))
    assert source.build("meta")(x.to("meta")).shape == (2, 4)


def test_fresh_weights_come_from_the_seed_alone() -> None:
    source = resolve_model("cifar_resnet20", meta("cmon", "cifar_resnet20", num_classes=10))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again, other = source.build(seed=1), source.build(seed=1), source.build(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.state_dict()["conv1.weight"], again.state_dict()["conv1.weight"])
    assert not torch.equal(one.state_dict()["conv1.weight"], other.state_dict()["conv1.weight"])


def test_building_on_meta_takes_no_memory() -> None:
    source = resolve_model(None, meta("torchvision", "regnet_y_128gf", num_classes=10))  # 2.6 GB
    model = source.build("meta")
    assert all(value.is_meta for value in model.state_dict().values())


# -- what is ambiguous -----------------------------------------------------------------------------------


def test_the_plainest_is_taken_and_the_others_are_named() -> None:
    source = resolve_model(None, meta("timm", "resnet50", num_classes=5))
    assert source.label == "torchvision/resnet50"
    assert "timm/resnet50" in source.alternatives
    assert "timm/resnet50" in source.describe()
    assert "--model" in source.describe()


def test_what_the_checkpoint_calls_itself_decides() -> None:
    state_dict = meta("timm", "resnet50", num_classes=5)
    source = resolve_model(None, state_dict, said="resnetblur50")
    assert source.label == "timm/resnetblur50"
    assert "torchvision/resnet50" in source.alternatives
    assert "calls itself resnetblur50" in source.describe()
    assert resolve_model(None, state_dict, said="vgg16").label == "torchvision/resnet50"  # does not fit
    assert resolve_model(None, state_dict, said="resnet50.a1_in1k").label == "torchvision/resnet50"


def test_networks_with_equal_weights_have_identities_of_their_own() -> None:
    state_dict = meta("timm", "resnet50", num_classes=5)
    identities = [
        resolve_model(name, state_dict).identity() for name in ("resnet50", "timm/resnet50", "resnetblur50")
    ]
    assert len({str(identity) for identity in identities}) == 3


# -- without the classifier --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "name", "head", "untrained"),
    [
        ("torchvision", "resnet18", "fc", ("fc",)),
        ("timm", "test_resnet", "fc", ()),
        ("cmon", "cifar_resnet20", "fc", ("fc",)),
    ],
)
def test_a_network_saved_without_its_classifier(
    library: str, name: str, head: str, untrained: tuple[str, ...]
) -> None:
    original = built(library, name, num_classes=5)
    state_dict = {
        key: value for key, value in original.state_dict().items() if not key.startswith(f"{head}.")
    }
    source = resolve_model(None, state_dict)
    assert source.num_classes is None
    assert source.untrained == untrained
    model = source.build()
    source.load(model, state_dict)
    setattr(original, head, nn.Identity())
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        if not untrained:
            assert torch.equal(model(x), original(x))
            return
        features = []
        model.get_submodule("avgpool").register_forward_hook(lambda *args: features.append(args[2]))
        assert model(x).isnan().all()  # nothing comes out of made-up weights
        assert torch.equal(features[0].flatten(1), original(x))


def test_a_network_with_another_classifier() -> None:
    original = built("torchvision", "resnet18")
    original.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 3))
    source = resolve_model(None, original.state_dict())
    assert source.unused == ("fc.1.bias", "fc.1.weight", "fc.3.bias", "fc.3.weight")
    assert source.untrained == ("fc",)
    assert "classifier was replaced" in source.describe()
    model = source.build()
    source.load(model, original.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for network in (model, original):
        network.fc = nn.Identity()
    assert torch.equal(model(x), original.eval()(x))


def test_a_classifier_with_the_old_names_and_other_shapes() -> None:
    state_dict = meta("torchvision", "vgg11", num_classes=10)
    state_dict["classifier.0.weight"] = torch.empty(4096, 512, device="meta")
    source = resolve_model(None, state_dict)
    assert source.label == "torchvision/vgg11"
    assert source.untrained == ("classifier.0", "classifier.3", "classifier.6")


# -- loading ---------------------------------------------------------------------------------------------


def test_half_precision_and_missing_counters_load() -> None:
    original = built("cmon", "cifar_resnet20", num_classes=10)
    state_dict = {
        key: value.half()
        for key, value in original.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    model = cifar.create_model("cifar_resnet20", num_classes=10)
    load_weights(model, state_dict)
    assert model.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(model.conv1.weight, original.conv1.weight, atol=1e-3, rtol=1e-3)


def test_loading_is_strict_and_says_what_differs() -> None:
    model = cifar.create_model("cifar_resnet20", num_classes=10)
    state_dict = dict(model.state_dict())
    state_dict["layer1.0.conv3.weight"] = state_dict.pop("layer1.0.conv1.weight")
    state_dict["fc.bias"] = torch.zeros(11)
    with pytest.raises(InputError) as error:
        load_weights(model, state_dict)
    assert "1 parameter unknown to it (first: layer1.0.conv3.weight" in error.value.what
    assert "1 parameter missing (first: layer1.0.conv1.weight)" in error.value.what
    assert "fc.bias is 11 in the checkpoint, 10 in the network" in error.value.what


def test_comparing() -> None:
    assert not compare({"a": (1,), "x.num_batches_tracked": ()}, {"a": (1,)})
    assert compare({"a": (1,)}, {"a": (2,)}).reshaped == {"a": ((1,), (2,))}
    assert compare({"a": (1,)}, {"b": (1,)}).missing == ("b",)
    assert compare({"a": ()}, {}).text() == "1 parameter unknown to it (first: a)"


# -- what does not fit -----------------------------------------------------------------------------------


def test_the_nearest_architecture_is_named_with_what_differs() -> None:
    state_dict = meta("torchvision", "resnet18", num_classes=10)
    state_dict["layer2.0.conv1.extra"] = state_dict.pop("layer2.0.conv1.weight")
    with pytest.raises(InputError) as error:
        resolve_model(None, state_dict)
    assert "closest: torchvision/resnet18" in error.value.what
    assert "1 parameter unknown to it (first: layer2.0.conv1.extra" in error.value.what
    assert "fc.weight" not in error.value.what  # the number of classes is no difference
    assert "--model" in str(error.value.hint)


def test_the_wrong_architecture() -> None:
    with pytest.raises(InputError) as error:
        resolve_model("resnet50", meta("torchvision", "resnet18", num_classes=10))
    assert "does not fit torchvision/resnet50" in error.value.what
    assert "missing (first: layer1.0.conv3.weight" in error.value.what
    assert error.value.where == "--model resnet50"


@pytest.mark.parametrize(
    ("spec", "offered"),
    [("resnet81", "resnet18"), ("timm/resnt50", "resnet50"), ("torchvision/rexnet_100", "")],
)
def test_an_unknown_name(spec: str, offered: str) -> None:
    with pytest.raises(InputError, match="no architecture is called") as error:
        resolve_model(spec, meta("torchvision", "resnet18"))
    assert offered in str(error.value.hint)


# -- by name ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("resnet18", "torchvision/resnet18"),
        ("torchvision/resnet18", "torchvision/resnet18"),
        ("timm/resnet18", "timm/resnet18"),
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
    ],
)
def test_a_name(spec: str, label: str) -> None:
    source = resolve_model(spec, meta("torchvision", "resnet18", num_classes=7))
    assert (source.label, source.num_classes, source.recognised) == (label, 7, False)
    assert "as given by --model" in source.describe()


def test_a_name_that_both_have_takes_the_one_that_fits() -> None:
    source = resolve_model("convnext_tiny", meta("timm", "convnext_tiny", num_classes=7))
    assert source.label == "timm/convnext_tiny"


# -- the user's own factories ----------------------------------------------------------------------------

NETWORK = """
import torch
from torch import nn
import helper_beside

class Net(nn.Module):
    def __init__(self, num_classes=1000, in_chans=3):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(in_chans, helper_beside.WIDTH, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(helper_beside.WIDTH, num_classes),
        )
    def forward(self, x):
        return self.net(x)

def without_arguments():
    return Net(4)

def with_anything(**kwargs):
    return Net(**kwargs)

def by_value(num_classes=2):
    assert torch.linspace(0, 1, 3)[1].item() == 0.5
    return Net(num_classes)

READY = Net(4)
NUMBER = 3

def needs_more(width, num_classes=2):
    return Net(num_classes)

def fails():
    raise RuntimeError("no such data set")

def returns_a_number():
    return 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "networks.py").write_text(NETWORK)
    (tmp_path / "helper_beside.py").write_text("WIDTH = 8\n")
    return tmp_path


@pytest.fixture
def their_weights() -> Callable[..., dict[str, Tensor]]:
    def weights(classes: int = 4, in_chans: int = 3, prefix: str = "net.") -> dict[str, Tensor]:
        torch.manual_seed(5)
        network = nn.Sequential(
            nn.Conv2d(in_chans, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
        )
        return {prefix + key: value for key, value in network.state_dict().items()}

    return weights


@pytest.mark.parametrize("attribute", ["Net", "without_arguments", "with_anything", "by_value", "READY"])
@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_file(
    project: Path, their_weights: Callable[..., dict[str, Tensor]], attribute: str, prefix: str
) -> None:
    """`net.` is taken for a wrapper's prefix on loading; the network's own names are found again."""
    spec = f"{project / 'networks.py'}:{attribute}"
    state_dict = their_weights(prefix="")
    source = resolve_model(spec, state_dict)
    assert source.library == "user"
    assert source.label == spec
    model = source.build()
    source.load(model, state_dict)
    expected = their_weights(prefix="net.")
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    assert list(source.align(state_dict, model)) == list(expected)
    assert str(project) not in sys.path


def test_a_file_gets_the_number_of_classes_and_channels(
    project: Path, their_weights: Callable[..., dict[str, Tensor]]
) -> None:
    source = resolve_model(f"{project / 'networks.py'}:Net", their_weights(classes=9, in_chans=1, prefix=""))
    assert dict(source.kwargs) == {"num_classes": 9, "in_chans": 1}
    assert source.num_classes == 9


def test_a_module(
    project: Path, their_weights: Callable[..., dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = project / "theirs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "zoo.py").write_text((project / "networks.py").read_text())
    monkeypatch.chdir(project)
    source = resolve_model("theirs.zoo:Net", their_weights(prefix=""))
    assert source.num_classes == 4
    for name in ("theirs.zoo", "theirs", "helper_beside"):
        sys.modules.pop(name, None)


def test_a_changed_file_is_another_network(
    project: Path, their_weights: Callable[..., dict[str, Tensor]]
) -> None:
    path = project / "networks.py"
    before = resolve_model(f"{path}:Net", their_weights(prefix=""))
    path.write_text(NETWORK.replace("nn.ReLU", "nn.GELU"))
    after = resolve_model(f"{path}:Net", their_weights(prefix=""))
    assert after.identity() != before.identity()
    kinds = [{type(layer) for layer in source.build().modules()} for source in (before, after)]
    assert nn.ReLU in kinds[0]
    assert nn.GELU not in kinds[0]
    assert nn.GELU in kinds[1]
    assert nn.ReLU not in kinds[1]


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_another_version_of_the_library_is_another_network(
    project: Path,
    their_weights: Callable[..., dict[str, Tensor]],
    library: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user's file may change one of its networks."""
    weights = meta(library, "resnet18")

    def identities() -> list[dict[str, Any]]:
        return [
            resolve_model(f"{project / 'networks.py'}:Net", their_weights(prefix="")).identity(),
            resolve_model(f"{library}/resnet18", weights).identity(),
        ]

    before = identities()
    assert identities() == before
    installed = constructors.version
    for module in (constructors, user_code):
        monkeypatch.setattr(
            module, "version", lambda name: installed(name) + (".post1" if name == library else "")
        )
    assert all(now != then for now, then in zip(identities(), before, strict=True))


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("{file}:Nett", "has no 'Nett'"),
        ("{file}:NUMBER", "not a function"),
        ("{file}:needs_more", "cannot be known: width"),
        ("{file}:fails", "RuntimeError: no such data set"),
        ("{file}:returns_a_number", "returned a int"),
        ("{folder}/missing.py:Net", "no such file"),
        ("{folder}/broken.py:Net", "SyntaxError"),
        ("{file}:", "names no factory"),
        ("no.such.module:Net", "no module no.such.module"),
    ],
)
def test_a_factory_that_does_not_work(
    project: Path, their_weights: Callable[..., dict[str, Tensor]], spec: str, what: str
) -> None:
    (project / "broken.py").write_text("def Net(:\n")
    with pytest.raises(InputError) as error:
        resolve_model(spec.format(file=project / "networks.py", folder=project), their_weights(prefix=""))
    assert what in error.value.what
    assert "--model" in str(error.value.where)


def test_a_factory_of_another_network(project: Path, their_weights: Callable[..., dict[str, Tensor]]) -> None:
    state_dict = their_weights(prefix="")
    state_dict["7.weight"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"unknown to it \(first: 7\.weight"):
        resolve_model(f"{project / 'networks.py'}:Net", state_dict)


def test_a_missing_attribute_offers_the_nearest(
    project: Path, their_weights: Callable[..., dict[str, Tensor]]
) -> None:
    with pytest.raises(InputError) as error:
        resolve_model(f"{project / 'networks.py'}:without_argument", their_weights())
    assert "without_arguments" in str(error.value.hint)


def test_a_source_is_described_for_a_key() -> None:
    source = ModelSource("timm", "resnet18", {"num_classes": 3}, 3, 3, code="1.0")
    assert source.identity() == {
        "library": "timm",
        "name": "resnet18",
        "kwargs": {"num_classes": 3},
        "in_chans": 3,
        "code": "1.0",
    }
    assert shapes_of({"a": torch.zeros(2, 3)}) == {"a": (2, 3)}
