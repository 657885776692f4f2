"""Reading what a layer puts out, by forward hooks that are removed whatever happens.

    with tap(model, ["layer3", "layer4"]) as read:
        outputs = read(images)          # {"layer3": (B, C, h, w), "layer4": ...}

The forward pass ends as soon as the last of the named layers has answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.wording import counted

T = TypeVar("T")

# Where an output is a dictionary, these entries are its main tensor by convention (torchvision's dense
# models; transformers' ModelOutput).
_MAIN_ENTRIES = ("out", "last_hidden_state", "logits")
# Modules whose tuples are documented to start with their output.
_OUTPUT_FIRST = (nn.MultiheadAttention, nn.RNNBase)


class Stop(BaseException):
    """Ends a forward pass early; no `Exception`, so that a network's own `except Exception` lets it by."""


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """A layer's name and which of its tensors is meant: `encoder:out:0` is (`encoder`, (`out`, `0`))."""
    module, *keys = name.split(":")
    return module, tuple(keys)


def tensors_in(output: object) -> dict[str, Tensor]:
    """The tensors of an output by the keys that name them (`0`, `out`, `out:1`); `""` for a tensor itself."""
    if isinstance(output, Tensor):
        return {"": output}
    if isinstance(output, Mapping):
        children = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, (tuple, list)):
        children = [(str(place), value) for place, value in enumerate(output)]
    else:
        return {}
    return {
        f"{key}:{inner}" if inner else key: tensor
        for key, value in children
        for inner, tensor in tensors_in(value).items()
    }


def first_tensor(output: object, module: nn.Module, name: str) -> Tensor:
    """The tensor that a module's output is about.

    A name with a key (`layer:0`, `layer:out`) says which of several it is. Without one, a tensor is itself. A
    tuple, list or dictionary with one tensor is that tensor; with several it is the first for attention and
    recurrent modules (output first, then weights or state), and the entry `out`, `last_hidden_state` or
    `logits` for a dictionary.

    Args:
        output: what the module returned.
        module: the module.
        name: its name.

    Raises:
        InputError: where the output holds no tensor, several of equal standing, or none of this key.
    """
    keys = split_name(name)[1]
    if keys:
        return _named_tensor(output, module, name, ":".join(keys))
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for key in _MAIN_ENTRIES:
            if isinstance(output.get(key), Tensor):
                found: Tensor = output[key]
                return found
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
    elif isinstance(output, (tuple, list)):
        tensors = [value for value in output if isinstance(value, Tensor)]
        if tensors and isinstance(module, _OUTPUT_FIRST):
            return tensors[0]
    else:
        tensors = []
    if len(tensors) == 1:
        return tensors[0]
    inside = tensors_in(output)
    problem = counted(len(inside), "tensors") if inside else f"no tensor ({type(output).__name__})"
    hint = "choose a layer inside or after it; `cmon layers` lists those that can be read"
    raise InputError(
        f"layer {name!r} ({type(module).__name__}) puts out {problem}, so what its units are is unclear",
        where=name,
        hint=f"say which one: {_choices(name, inside)}" if inside else hint,
    )


def _named_tensor(output: object, module: nn.Module, name: str, key: str) -> Tensor:
    inside = tensors_in(output)
    if key in inside:
        return inside[key]
    layer = split_name(name)[0]
    raise InputError(
        f"layer {layer!r} ({type(module).__name__}) puts out no tensor {key!r}",
        where=name,
        hint=f"say {_choices(layer, inside)}" if len(inside) > 1 else f"leave ':{key}' out",
    )


def _choices(layer: str, inside: Mapping[str, Tensor]) -> str:
    some = [f"--layer {layer}:{key} ({' x '.join(map(str, t.shape[1:]))})" for key, t in inside.items()]
    return ", ".join(some[:4]) + (" ..." if len(some) > 4 else "")


def find_modules(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of these names.

    Args:
        model: the network.
        names: as in `model.named_modules()`, perhaps with the key of a tensor (`layer:0`).

    Raises:
        InputError: naming the first that does not exist.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if not split_name(name)[0] or split_name(name)[0] not in modules:
            raise InputError(f"the network has no layer {name!r}", where=type(model).__name__)
    return {name: modules[split_name(name)[0]] for name in names}


class Calls:
    """How often tapped layers are called in a forward pass, and which call of each is its last.

    Args:
        names: of the layers.
        calls: how often each is called, where known; else it is learnt from the first pass, which runs to
            its end, and every call may be the last.
        early_stop: end the pass after the last call of the last layer.
    """

    def __init__(self, names: Sequence[str], calls: Mapping[str, int] | None, early_stop: bool) -> None:
        self._early_stop = early_stop
        self.expected = None if calls is None else {name: calls[name] for name in names}
        self._seen = dict.fromkeys(names, 0)

    def begin(self) -> None:
        """A pass begins."""
        self._seen = dict.fromkeys(self._seen, 0)

    def is_last(self, name: str) -> bool:
        """Count a call of a layer: is it its last, as far as known?"""
        self._seen[name] += 1
        return self.expected is None or self._seen[name] >= self.expected[name]

    def stop_if_done(self) -> None:
        """End the pass where every layer has been called as often as it will be.

        Raises:
            Stop: to be caught by whoever began the pass.
        """
        if (
            self._early_stop
            and self.expected is not None
            and all(self._seen[name] >= count for name, count in self.expected.items())
        ):
            raise Stop

    def learn(self) -> None:
        """A pass ran to its end: from now on its calls are expected.

        Raises:
            InputError: where the last call of a layer did not come.
        """
        needed = self.expected or dict.fromkeys(self._seen, 1)
        silent = next((name for name, count in self._seen.items() if count < needed[name]), None)
        if silent is not None:
            raise InputError(
                f"layer {silent!r} takes no part in the network's forward pass",
                where=silent,
                hint="choose the layer that contains it; `cmon layers` lists those that can be read",
            )
        self.expected = dict(self._seen)


class Tap(Generic[T]):
    """Runs a network and returns what its tapped layers put out. Made by `tap`."""

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        capture: Callable[[str, Tensor], T],
        calls: Mapping[str, int] | None,
        early_stop: bool,
        run: Callable[..., Any] | None,
    ) -> None:
        self._run = model if run is None else run
        self._compiled = run is not None
        self._modules = dict(modules)
        self._capture = capture
        self._running = False
        self._calls = Calls(list(modules), calls, early_stop)
        self._captured: dict[str, T] = {}

    @property
    def calls(self) -> dict[str, int] | None:
        """How often each tapped layer is called in a forward pass; None until it is known."""
        return None if self._calls.expected is None else dict(self._calls.expected)

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if not self._running:
                return  # somebody calls the network or a part of it past the tap
            if self._calls.is_last(name):
                self._captured[name] = self._capture(name, first_tensor(output, module, name))
            self._calls.stop_if_done()

        if self._compiled:
            # The compiler cuts its graph here: hooks count calls and may end the pass, which no graph can.
            whole: Any = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
            return cast("Callable[[nn.Module, Any, Any], None]", whole)
        return hook

    def __call__(self, *inputs: Any) -> dict[str, T]:
        """One forward pass in inference mode.

        Args:
            inputs: the network's own.

        Returns:
            What `capture` made of the output of each layer, in the order of the names given.

        Raises:
            InputError: where a tapped layer takes no part in the forward pass, or its output is unclear.
        """
        self._captured = {}
        self._calls.begin()
        self._running = True
        try:
            with torch.inference_mode():
                self._run(*inputs)
        except Stop:
            pass
        else:
            self._calls.learn()
        finally:
            self._running = False
            captured, self._captured = self._captured, {}  # also of a pass that failed, out of memory say
        return {name: captured[name] for name in self._modules}


def _clone(_name: str, output: Tensor) -> Tensor:
    # The next layer may work in place (`ReLU(inplace=True)` after a batch norm): without a copy the tap
    # would show what became of the output, not the output.
    return output.clone()


@contextmanager
def tap(
    model: nn.Module,
    names: Sequence[str],
    *,
    capture: Callable[[str, Tensor], T] | None = None,
    calls: Mapping[str, int] | None = None,
    early_stop: bool = True,
    run: Callable[..., Any] | None = None,
) -> Iterator[Tap[T]]:
    """Taps layers for the length of a `with` block; the hooks are gone after it, whatever happened.

    A layer that is called several times in one forward pass (torchvision's residual blocks share one `relu`)
    answers with its last call. So that the pass can still end early, the number of calls is counted in the
    first pass, which runs to its end; later ones stop when every tapped layer has been called as often. A
    network that calls its layers a different number of times for different images needs `early_stop=False`.

    Args:
        model: the network; its mode (`eval`) is the caller's business.
        names: layers as in `model.named_modules()`; a repeated one counts once.
        capture: turns (name, output) into what is kept, at the moment of the call; a copy by default. It must
            not keep a view of the output, which the next layer may change in place.
        calls: how often each layer is called in one forward pass, where known (`LayerInfo.calls`): then the
            first pass stops early too.
        early_stop: end the pass after the last tapped layer.
        run: called in the network's place: `torch.compile(model)`.

    Yields:
        A function of the network's inputs that returns a dictionary name -> captured output.

    Raises:
        InputError: for a name that does not exist.
    """
    modules = find_modules(model, list(dict.fromkeys(names)))
    taps: Tap[Any] = Tap(model, modules, capture or _clone, calls, early_stop, run)
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(taps._hook(name)))
        yield taps
    finally:
        for handle in handles:
            handle.remove()
