"""A visit of a network that is in use: the pieces of a `dissect`, with the network itself for a checkpoint.

The network is looked at from outside: its weights are read, and a copy of it is run. Where these weights are
those of a network that `dissect` would recognise (or that `architecture` builds), and the copy computes the
same, everything further is that of a `dissect` of the saved weights: the same recordings under the same keys
in the store, and the same bytes in the tables. Where it computes something else, or is not known, the copy is
run as it is, and there are no floors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from concept_monitor_cli.checkpoints import Checkpoint, checkpoint_of
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.library.inputs import concepts_of, images_of
from concept_monitor_cli.library.settings import dissect_options, names
from concept_monitor_cli.models.live import (
    LiveSource,
    computes_the_same,
    detached_copy,
    part_with,
    state_of,
    undisturbed,
    unwrapped,
)
from concept_monitor_cli.options import BasisSpec
from concept_monitor_cli.progress import Progress
from concept_monitor_cli.run import CheckpointRecord, RunFolder
from concept_monitor_cli.store import atomic_write, write_text_atomic
from concept_monitor_cli.stories.dissect import (
    DissectResult,
    check_place,
    combine,
    dissect_network,
    write_failed,
)
from concept_monitor_cli.stories.pieces import open_study
from concept_monitor_cli.study import Architecture, Study, StudyFile, UnusableCheckpointError, describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concept_monitor_cli.library.inputs import Images, Words

WEIGHTS = "weights"


@dataclass(frozen=True)
class Visit:
    """What a visit did.

    Attributes:
        epoch: of the network.
        name: of the checkpoint that it stands for, in the tables.
        forward_passes: how often a network was run over all probing images: none where everything is known.
        floor_passes: of these, how often one with random weights was, for floors.
        seconds: inside the networks.

    >>> import concept_monitor_cli as cmon
    >>> from concept_monitor_cli.models.cifar import create_model
    >>> network = create_model("cifar_resnet20", num_classes=10)
    >>> monitor = cmon.Monitor("builtin", layers="layer1", probe_limit=60, floors=False)
    >>> visit = monitor(network, 3)
    >>> visit.epoch, visit.name, visit.forward_passes, visit.floor_passes
    (3, 'epoch_0003.pth', 1, 0)
    """

    epoch: int
    name: str
    forward_passes: int
    floor_passes: int
    seconds: float


class Visitor:
    """Visits networks for one run.

    Args:
        images: see `images_of`.
        out: the run folder.
        layers: their names, as in `model.named_modules()`.
        concepts: see `concepts_of`.
        encoder: as `--encoder`.
        keep_weights: write the weights of every visit into the run, where they are read again.
        overwrite: start the run anew with the first visit.
        settings: see `Settings`.
        progress: told what happens.
    """

    def __init__(
        self,
        images: Images,
        *,
        out: Path,
        layers: str | Sequence[str],
        concepts: Words | None,
        encoder: str | None,
        keep_weights: bool,
        overwrite: bool,
        settings: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        self.run = RunFolder(out)
        self._device: str | None = settings.get("device")
        self._keep_weights = keep_weights
        self._start_anew = overwrite
        self._progress = progress
        self._written: set[int] = set()
        self._architectures: dict[tuple[Any, ...], Architecture] = {}
        self._options = dissect_options(
            {name: value for name, value in settings.items() if name != "device"},
            layers=names(layers),
            out=out,
            probe=images_of(images, out),
            concepts=concepts_of(concepts, out),
            encoder=encoder,
            overwrite=overwrite,
        )
        self._study: Study | None = None

    def refuse_fitted_bases(self) -> None:
        """Refuse bases that are fitted to the last checkpoint of a training, before there is one.

        Raises:
            InputError: there is such a basis.
        """
        for text in self._options.bases:
            spec = BasisSpec.parse(text)
            if spec is not None and spec.fitted:
                raise InputError(
                    f"{text} is fitted to the last checkpoint of a training, which is not there yet",
                    where="bases=",
                    hint="dissect the kept weights in it afterwards, or take random:R or saved:FILE",
                )

    def visit(self, model: nn.Module, epoch: int, name: str) -> Visit:
        """Dissect a network as it is now.

        Args:
            model: the network. It is left as it is.
            epoch: in the tables.
            name: of the checkpoint that it stands for, in the tables; a file name.

        Raises:
            UnusableCheckpointError: its weights are NaN or infinite.
            InputError, CmonError: see `stories.dissect.dissect`.
        """
        model = unwrapped(model)
        with undisturbed():
            return self._visit(model, epoch, name)

    def write_failed(self, epoch: int, name: str, error: UnusableCheckpointError) -> None:
        """Record a network that could not be dissected."""
        if self._start_anew:
            return  # the run is still the one that is to make room
        write_failed(self.run, [(self._file(epoch, name), error)])

    def _visit(self, model: nn.Module, epoch: int, name: str) -> Visit:
        file, state, config = self._file(epoch, name), state_of(model), _config_of(model)
        spec = self._options.model
        saved = checkpoint_of(state, file.path, epoch=epoch, model=spec, config=config)
        study = self._opened(model, saved)
        checkpoint, architecture = self._known(study, model, saved, exact=_is_same(saved, state))
        if not self._start_anew:
            # Before anything is removed.
            self.run.check_settings(describe.settings(study, architecture))
            self._make_room(study, file, checkpoint)
            check_place(self.run, file, checkpoint)
        result = DissectResult(self.run.root)
        if any(spec is not None and spec.fitted for spec in map(BasisSpec.parse, study.options.bases)):
            study.__dict__["last_checkpoint"] = checkpoint

        def begin(run: RunFolder) -> None:
            if self._start_anew:
                self._clear(run)
                self._start_anew = False
            if self._keep_weights:
                _save(file.path, state, epoch, config)

        dissect_network(study, self.run, file, checkpoint, architecture, result, begin)
        combine(study, self.run, architecture, finished=True)
        if not self._written:
            study.warn_of_little_evidence()
        self._written.add(epoch)
        return Visit(epoch, name, result.forward_passes, result.floor_passes, result.forward_seconds)

    def _opened(self, model: nn.Module, checkpoint: Checkpoint) -> Study:
        if self._study is None:
            found = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
            # In tables, layers have the names that they have without wrappers, as in a `dissect`.
            prefix, layers = "".join(checkpoint.stripped), self._options.layers
            if prefix and all(layer.startswith(prefix) for layer in layers):
                layers = tuple(layer.removeprefix(prefix) for layer in layers)
            options = replace(self._options, device=self._device or str(found), layers=layers)
            self._study = open_study(options, self._progress)
        return self._study

    def _file(self, epoch: int, name: str) -> StudyFile:
        return StudyFile(name, self.run.root / WEIGHTS / name, epoch, f"epoch_{epoch:04d}")

    # -- which network it is -----------------------------------------------------------------------

    def _known(
        self, study: Study, model: nn.Module, checkpoint: Checkpoint, *, exact: bool
    ) -> tuple[Checkpoint, Architecture]:
        """The network as `dissect` would know it, if it does the same; else the copy, run as it is."""
        spec = study.options.model
        live, hooks = detached_copy(model)
        if hooks:
            study.notice(f"{hooks} hooks of the network are not run on the probing images")
        architecture = self._recognised(study, live, checkpoint)
        if architecture is not None:
            size = architecture.preprocessing.geometry.size
            built = architecture.source.restore(checkpoint.state_dict)
            part = _part(live, checkpoint)
            if checkpoint.nonfinite or computes_the_same(part, built, architecture.layers, size, exact=exact):
                return checkpoint, architecture
            if spec is not None:
                raise InputError(
                    "the network computes something else than the one that is built, with the same weights",
                    where=f"architecture={spec!r}",
                    hint="name what builds this very network, or leave it out to have it run as it is",
                )
            study.notice(
                f"names and shapes are those of {architecture.source.label}, but it computes something else"
            )
        return self._as_it_is(study, part_with(live, study.options.layers), checkpoint)

    def _recognised(self, study: Study, live: nn.Module, checkpoint: Checkpoint) -> Architecture | None:
        """As a `dissect` of the saved weights would have it; `None` where it would refuse them."""
        try:
            return study.architecture(checkpoint)
        except InputError as error:
            if study.options.model is not None:
                raise
            if not isinstance(error, UnusableCheckpointError):
                # Known, but without such a layer: does the network in use have it?
                with suppress(InputError):
                    part_with(live, study.options.layers)
                    return None
                raise
            return None

    def _as_it_is(self, study: Study, live: nn.Module, saved: Checkpoint) -> tuple[Checkpoint, Architecture]:
        if study.options.null == "untrained":
            LiveSource.of(live).build()  # says that it cannot
        if study.options.floors:
            study.notice(
                "no floors: how this network gets random weights is not known (name what builds it with "
                "architecture='package.module:factory')"
            )
            study.options = replace(study.options, floors=False)
        state = state_of(live)
        checkpoint = Checkpoint(saved.path, state, epoch=saved.epoch, epoch_source="file")
        key = (type(live), *((name, tuple(value.shape)) for name, value in sorted(state.items())))
        source = LiveSource.of(live)
        if key not in self._architectures:
            found = study.architecture_of(source, live)
            self._architectures[key] = replace(found, source=replace(source, network=nn.Identity()))
        known = self._architectures[key]
        digest = source.known_by(known.layers, known.preprocessing.geometry.size)
        return checkpoint, replace(known, source=replace(source, code=digest), skeleton=live)

    # -- what is in the run already ----------------------------------------------------------------

    def _make_room(self, study: Study, file: StudyFile, checkpoint: Checkpoint) -> None:
        """Remove what an earlier attempt of this training left at this epoch and later.

        Raises:
            InputError: the run begins with other weights: it is another training's.
        """
        records = self.run.checkpoints()
        here = self.run.checkpoint_in(file.folder)
        if here is None or here.weights in ("", checkpoint.digest) or not self._is_own(here):
            return  # another one's checkpoint is refused in its place, as by a `dissect`
        if not self._written and records[0].epoch == file.epoch:
            raise InputError(
                f"the run begins at epoch {file.epoch} with other weights: it is another training's",
                where=self.run.root,
                hint="write to another folder (out=), or start the run anew (overwrite=True)",
            )
        later = [record for record in records if record.epoch > file.epoch and self._is_own(record)]
        for record in later:
            Path(record.path).unlink(missing_ok=True)
            self.run.drop(record.folder)
        if later:
            epochs = ", ".join(str(record.epoch) for record in later[:5]) + " ..." * (len(later) > 5)
            study.progress.warning(
                f"the training was taken up again at epoch {file.epoch}: what the run had of later epochs "
                f"({epochs}) is removed"
            )

    def _is_own(self, record: CheckpointRecord) -> bool:
        """Whether a visit made it, and no `dissect` of checkpoints that lie elsewhere."""
        return (self.run.root / WEIGHTS).resolve() in Path(record.path).parents

    def _clear(self, run: RunFolder) -> None:
        for record in run.checkpoints():
            if self._is_own(record):
                Path(record.path).unlink(missing_ok=True)
        run.clear()


def _is_same(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> bool:
    """Whether the checkpoint has the tensors of a state dict as they are, under whatever names."""
    return len(checkpoint.state_dict) + len(checkpoint.ignored) == len(state)


def _part(live: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """The part of a network that its checkpoint's names are those of."""
    try:
        return live.get_submodule("".join(checkpoint.stripped).rstrip("."))
    except AttributeError:
        return live


def _config_of(model: nn.Module) -> dict[str, Any]:
    """What transformers would write beside the weights, as `config.json`; empty for other networks."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_json_string") or not hasattr(config, "model_type"):
        return {}
    found: dict[str, Any] = json.loads(config.to_json_string())
    return {**found, "architectures": [type(model).__name__]}


def _save(path: Path, state: Mapping[str, Tensor], epoch: int, config: Mapping[str, Any]) -> None:
    """Write weights as a checkpoint file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        if path.suffix == ".safetensors":
            save_file({name: value.contiguous() for name, value in state.items()}, temporary)
        else:
            torch.save({"state_dict": dict(state), "epoch": epoch}, temporary)
    if config:
        write_text_atomic(path.parent / "config.json", json.dumps(config, indent=2, sort_keys=True))
