"""Opens the checkpoints of a training in the same way for every command: each with the network it is of."""

from __future__ import annotations

from typing import Any

from concept_monitor_cli.checkpoints import Checkpoint, NotRecognisedError, Reader
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.build import resolve_model


def reader_of(model: str | None, **loading: Any) -> Reader:
    """A reader that knows the network of each checkpoint.

    Args:
        model: as `--model`: None to recognise networks by their weights.
        loading: how they are read, as for `load_checkpoint`.
    """
    return Reader(_Networks(model), **{**loading, "model": model})


class _Networks:
    """Names networks, each once."""

    def __init__(self, model: str | None) -> None:
        self._model = model
        self._known: dict[tuple[Any, ...], str | InputError] = {}

    def __call__(self, checkpoint: Checkpoint) -> str:
        """The network's name.

        Raises:
            NotRecognisedError: it is not known, or not the one that the user named.
        """
        shapes = tuple((name, tuple(value.shape)) for name, value in sorted(checkpoint.state_dict.items()))
        if shapes not in self._known:
            try:
                self._known[shapes] = resolve_model(
                    self._model,
                    checkpoint.state_dict,
                    said=checkpoint.arch,
                    family=checkpoint.family,
                    config=checkpoint.config,
                ).label
            except InputError as error:
                self._known[shapes] = error
        found = self._known[shapes]
        if isinstance(found, InputError):
            raise NotRecognisedError(found.what, where=found.where or checkpoint.path, hint=found.hint)
        return found
