from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.gradients import gradient_tap, gradients, normalises_images


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Several(nn.Module):
    """Puts out the input doubled inside a structure."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        x = 2 * x
        return {
            "tuple": (x, None),
            "list": [x],
            "named": Pair(x, x + 1),
            "dict": {"out": x, "again": x},
            "nested": {"inner": (x + 5, x)},
        }[self.kind]


class Reader(nn.Module):
    """A layer with a structured output and a tail that squares what it is about, in place."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = Several(kind)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        read = {
            "tuple": lambda: out[0],
            "list": lambda: out[0],
            "named": lambda: out.first,
            "dict": lambda: out["again"],
            "nested": lambda: out["inner"][1],
        }[self.layer.kind]()
        return read.mul_(read.detach().clone())


class ClassToken(nn.Module):
    """Tokens (B, T, D) of which only the first is read, as by a ViT's head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(3, 3)
        self.split = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.block(x)
        self.split(tokens[:, 1:])
        return tokens[:, 0].sum(1)


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken layer")


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return 3 * self.relu(self.relu(x + 0) - 2)


def linear(rows: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def needs(model: nn.Module) -> list[bool]:
    return [weight.requires_grad for weight in model.parameters()]


def net() -> nn.Sequential:
    """y = 5 relu(x0 - x1) + 7 relu(x1); its second weight needs no gradient."""
    model = nn.Sequential(linear([[1.0, -1.0], [0.0, 1.0]]), nn.ReLU(inplace=True), linear([[5.0, 7.0]]))
    model[2].weight.requires_grad_(False)
    return model


def test_outputs_and_gradients_by_hand() -> None:
    with gradient_tap(net(), ["1", "0"]) as run:
        seen = run(torch.tensor([[1.0, 3.0], [4.0, 1.0]]))
        slopes = gradients(seen.result, seen.outputs)
    assert list(seen.outputs) == list(slopes) == ["1", "0"]
    # The in-place ReLU did not change what was kept of the layer before it.
    assert seen.outputs["0"].tolist() == [[-2.0, 3.0], [3.0, 1.0]]
    assert seen.outputs["1"].tolist() == [[0.0, 3.0], [3.0, 1.0]]
    assert seen.result.tolist() == [[21.0], [22.0]]
    assert slopes["0"].tolist() == [[0.0, 7.0], [5.0, 7.0]]
    assert slopes["1"].tolist() == [[5.0, 7.0], [5.0, 7.0]]


def test_gradients_reach_images_that_need_one() -> None:
    images = torch.tensor([[4.0, 1.0]], requires_grad=True)
    with gradient_tap(net(), ["0"]) as run:
        seen = run(images)
        slopes = gradients(seen.result, {"images": images, **seen.outputs})
    assert slopes["images"].tolist() == [[5.0, 2.0]]
    assert slopes["0"].tolist() == [[5.0, 7.0]]


def test_without_a_layer_only_the_result() -> None:
    images = torch.tensor([[4.0, 1.0]], requires_grad=True)
    with gradient_tap(net(), early_stop=True) as run:
        seen = run(images)
    assert seen.outputs == {}
    assert gradients(seen.result, {"images": images})["images"].tolist() == [[5.0, 2.0]]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tuple", "layer"),
        ("list", "layer"),
        ("named", "layer:0"),
        ("dict", "layer"),
        ("nested", "layer:inner:1"),
    ],
)
def test_structured_outputs_stay_what_they_are(kind: str, name: str) -> None:
    with gradient_tap(Reader(kind), [name]) as run:
        seen = run(torch.tensor([[3.0, 1.0]]))
        slopes = gradients(seen.result, seen.outputs)
    assert seen.outputs[name].tolist() == [[6.0, 2.0]]
    assert seen.result.tolist() == [[36.0, 4.0]]
    assert slopes[name].tolist() == [[6.0, 2.0]]


def test_which_networks_normalise_single_images() -> None:
    class MyRMSNorm(nn.Module):
        """As transformers' own."""

    plain = [nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)]
    assert not normalises_images(nn.Sequential(*plain))
    for norm in (nn.LayerNorm(4), nn.GroupNorm(2, 4), MyRMSNorm(), type("Mine", (nn.LayerNorm,), {})(4)):
        assert normalises_images(nn.Sequential(*plain, nn.Sequential(norm)))


def test_a_model_output_of_transformers_stays_one() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> object:
            return outputs.BaseModelOutput(last_hidden_state=2 * x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).last_hidden_state * 3

    with gradient_tap(Net(), ["layer"]) as run:
        seen = run(torch.ones(1, 2))
        assert gradients(seen.result, seen.outputs)["layer"].tolist() == [[3.0, 3.0]]


def test_a_shared_layer_answers_with_its_last_call() -> None:
    with gradient_tap(Shared(), ["relu"]) as run:
        for _ in range(2):
            seen = run(torch.tensor([[5.0, 1.0]]))
            assert seen.outputs["relu"].tolist() == [[3.0, 0.0]]
            assert gradients(seen.result, seen.outputs)["relu"].tolist() == [[3.0, 3.0]]


def test_the_pass_ends_after_the_last_tapped_layer() -> None:
    model = nn.Sequential(linear([[2.0]]), Failing())
    images = torch.ones(1, 1, requires_grad=True)
    with gradient_tap(model, ["0"], calls={"0": 1}, early_stop=True) as run:
        seen = run(images)
        assert seen.result is None
        assert gradients(seen.outputs["0"].sum(), {"images": images})["images"].tolist() == [[2.0]]
    with gradient_tap(net(), ["0"], early_stop=True) as run:
        assert run(torch.ones(1, 2)).result is not None  # the pass that counts the calls
        assert run(torch.ones(1, 2)).result is None


@pytest.mark.parametrize("surroundings", [torch.no_grad, torch.inference_mode])
def test_gradients_are_there_whatever_surrounds_the_call(surroundings: type) -> None:
    model = net()
    with surroundings():
        images = torch.tensor([[4.0, 1.0]]) * 1
        with gradient_tap(model, ["0"]) as run:
            seen = run(images)
            assert gradients(seen.result, seen.outputs)["0"].tolist() == [[5.0, 7.0]]


def test_weights_are_frozen_inside_and_as_before_after_it() -> None:
    model = net()
    with gradient_tap(model, ["0"]) as run:
        assert needs(model) == [False, False]
        seen = run(torch.ones(1, 2))
        gradients(seen.result, seen.outputs)
    assert needs(model) == [True, False]
    assert all(weight.grad is None for weight in model.parameters())
    assert hooks(model) == 0


def test_everything_is_as_before_after_an_exception() -> None:
    model = nn.Sequential(linear([[1.0]]), Failing())
    with pytest.raises(RuntimeError, match="broken layer"), gradient_tap(model, ["0"]) as run:
        run(torch.ones(1, 1))
    assert (hooks(model), needs(model)) == (0, [True])
    with pytest.raises(InputError, match="no layer 'nine'"), gradient_tap(model, ["0", "nine"]):
        pass
    assert (hooks(model), needs(model)) == (0, [True])


def test_a_layer_that_takes_no_part_is_named() -> None:
    model = Shared()
    model.idle = nn.Identity()
    with pytest.raises(InputError, match="layer 'idle' takes no part"), gradient_tap(model, ["idle"]) as run:
        run(torch.ones(1, 1))


def test_a_gradient_of_zero_everywhere_says_why() -> None:
    with gradient_tap(ClassToken(), ["block", "split"]) as run:
        seen = run(torch.ones(2, 4, 3))
        tail = {"split": seen.outputs["split"]}
        with pytest.raises(InputError, match="zero everywhere") as caught:
            gradients(seen.result, tail, keep_graph=True)
        assert "class token" in str(caught.value.hint)
        slopes = gradients(seen.result, {"block": seen.outputs["block"]})
    assert slopes["block"][:, 0].tolist() == [[1.0] * 3] * 2
    assert not slopes["block"][:, 1:].any()


def test_a_gradient_of_zeros_is_one_as_well() -> None:
    with gradient_tap(net(), ["0"]) as run:
        seen = run(torch.tensor([[-1.0, -1.0]]))  # both ReLUs are silent
        with pytest.raises(InputError, match="zero everywhere"):
            gradients(seen.result, seen.outputs)


def test_an_output_without_a_graph_says_so() -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).detach()

    with gradient_tap(Rounded(), ["layer"]) as run:
        seen = run(torch.ones(1, 2))
        with pytest.raises(InputError, match="has no gradient"):
            gradients(seen.result, seen.outputs)
