from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.taps import first_tensor, tap


class Counting(nn.Module):
    """Adds a constant and counts how often it ran."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x + self.amount


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken layer")


class Shared(nn.Module):
    """One ReLU used twice, as in torchvision's residual blocks, and a tail."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.tail = Counting(0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(x.clone())
        return self.tail(self.relu(y - 2))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def chain() -> nn.Sequential:
    return nn.Sequential(Counting(1), Counting(10), Counting(100))


def test_values_by_hand() -> None:
    with tap(chain(), ["1", "0"]) as read:
        outputs = read(torch.zeros(2, 3))
    assert list(outputs) == ["1", "0"]
    assert torch.equal(outputs["0"], torch.full((2, 3), 1.0))
    assert torch.equal(outputs["1"], torch.full((2, 3), 11.0))


def test_hooks_are_removed_after_a_normal_end() -> None:
    model = chain()
    with tap(model, ["0", "2"]) as read:
        assert hooks(model) == 2
        read(torch.zeros(1, 3))
    assert hooks(model) == 0


def test_hooks_are_removed_after_a_wrong_argument() -> None:
    model = chain()
    with pytest.raises(TypeError), tap(model, ["0"]) as read:
        read()
    assert hooks(model) == 0
    with pytest.raises(InputError, match="no layer 'nine'"), tap(model, ["0", "nine"]):
        pass
    assert hooks(model) == 0


def test_hooks_are_removed_after_an_exception_in_the_model() -> None:
    model = nn.Sequential(Counting(1), Failing(), Counting(2))
    with pytest.raises(RuntimeError, match="broken layer"), tap(model, ["0", "2"]) as read:
        read(torch.zeros(1, 3))
    assert hooks(model) == 0


def test_the_pass_ends_after_the_last_tapped_layer() -> None:
    model = chain()
    with tap(model, ["1"]) as read:
        read(torch.zeros(1, 3))  # the first pass counts the calls and runs to its end
        read(torch.zeros(1, 3))
        read(torch.zeros(1, 3))
    assert [layer.runs for layer in model] == [3, 3, 1]


def test_known_calls_end_the_first_pass_too() -> None:
    model = chain()
    with tap(model, ["0"], calls={"0": 1}) as read:
        read(torch.zeros(1, 3))
    assert [layer.runs for layer in model] == [1, 0, 0]


def test_a_failing_layer_behind_the_last_tap_is_never_reached() -> None:
    model = nn.Sequential(Counting(1), Failing())
    with tap(model, ["0"], calls={"0": 1}) as read:
        assert torch.equal(read(torch.zeros(1, 1))["0"], torch.ones(1, 1))


def test_without_early_stop_everything_runs() -> None:
    model = chain()
    with tap(model, ["0"], early_stop=False) as read:
        read(torch.zeros(1, 3))
        read(torch.zeros(1, 3))
    assert model[2].runs == 2


def test_a_shared_layer_answers_with_its_last_call() -> None:
    model = Shared()
    with tap(model, ["relu"]) as read:
        for _ in range(2):
            assert read(torch.tensor([[5.0, 1.0]]))["relu"].tolist() == [[3.0, 0.0]]
        assert read.calls == {"relu": 2}
    assert model.tail.runs == 1  # only in the pass that counted


def test_a_shared_layer_in_a_real_block(resnet18: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    with tap(resnet18, ["layer4.1.relu", "layer4"]) as read:
        first, second = read(images), read(images)
    for outputs in (first, second):
        assert torch.equal(outputs["layer4.1.relu"], outputs["layer4"])


def test_an_in_place_layer_behind_does_not_change_what_was_read(resnet18: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    with tap(resnet18, ["bn1"]) as alone, torch.no_grad():
        alone(images)
        expected = resnet18.bn1(resnet18.conv1(images))
    with tap(resnet18, ["bn1", "layer1"]) as read:
        seen = read(images)["bn1"]
    assert (expected < 0).any()
    assert torch.allclose(seen, expected, atol=1e-6)


def test_no_graph_is_kept() -> None:
    model = nn.Linear(3, 2)
    wrapped = nn.Sequential(model)
    with tap(wrapped, ["0"]) as read:
        output = read(torch.zeros(1, 3))["0"]
    assert not output.requires_grad
    assert output.grad_fn is None


def test_a_layer_that_is_never_called_is_an_error() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    with pytest.raises(InputError, match="takes no part"), tap(Net(), ["attention.out_proj"]) as read:
        read(torch.zeros(1, 3, 4))


def test_first_tensor() -> None:
    a, b = torch.zeros(1), torch.ones(2)
    plain = nn.Identity()
    assert first_tensor(a, plain, "x") is a
    assert first_tensor((a, None), plain, "x") is a
    assert first_tensor({"aux": b, "out": a}, plain, "x") is a
    assert first_tensor({"only": b}, plain, "x") is b
    assert first_tensor((a, b), nn.MultiheadAttention(4, 2), "x") is a
    assert first_tensor((a, (b, b)), nn.LSTM(2, 2), "x") is a
    for output in ((a, b), {"left": a, "right": b}, None, []):
        with pytest.raises(InputError, match="layer 'x'"):
            first_tensor(output, plain, "x")


def test_a_user_can_still_end_the_block_with_an_exception() -> None:
    model = chain()
    with pytest.raises(KeyboardInterrupt), tap(model, ["0"]):
        raise KeyboardInterrupt
    assert hooks(model) == 0


def test_parts_of_the_network_can_be_called_past_the_tap() -> None:
    model = chain()
    with tap(model, ["0"], calls={"0": 1}) as read:
        assert model(torch.zeros(1)).item() == 111.0
        assert read(torch.zeros(1))["0"].item() == 1.0
        assert model(torch.zeros(1)).item() == 111.0
