"""How a study shows its images to a network: as is usual for the architecture, or as the checkpoint shows.

Looked at once per run, at the last checkpoint of the whole run. All processes of a job array come to the
same answer: it depends on content only and is kept in the cache. A run that is continued keeps the answer
that is in its `run.json`, whatever checkpoints were added. Checkpoints of another network than the last one's
(with a head of another size, say) are of the same training: they are shown images as it is, and that is said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from concept_monitor_cli.checkpoints import Checkpoint, load_checkpoint
from concept_monitor_cli.checkpoints.paths import printable
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evidence import (
    InputEvidence,
    Presentation,
    evidence_key,
    find_input,
    fitting,
)
from concept_monitor_cli.models.build import ModelSource, resolve_model
from concept_monitor_cli.options import DissectOptions
from concept_monitor_cli.probe import Preprocessing
from concept_monitor_cli.run import RunFolder
from concept_monitor_cli.study.networks import shown_to

if TYPE_CHECKING:
    from concept_monitor_cli.study import Study


def presented(
    study: Study, checkpoint: Checkpoint | None, source: ModelSource
) -> tuple[ModelSource, Preprocessing, InputEvidence]:
    """The network, how images are shown to it, and the evidence for both.

    Says what was found; warns where it is against an option.

    Args:
        study: options, probing images, cache, and the checkpoints of the run.
        checkpoint: any of the architecture; None for a network that is in use.
        source: the architecture as recognised or named.

    Returns:
        First that architecture, or the one of the same names and shapes that the evidence is for.

    Raises:
        InputError: an option makes no sense.
    """
    prepare = partial(shown_to, options=study.options, whole_frame=study.listed_probe.has_masks)
    usual = Presentation(source, prepare(source))
    if checkpoint is None:
        return source, usual.preprocessing, InputEvidence("not looked at", "the network is in use")
    evidence = _evidence(study, checkpoint, source, prepare, usual)
    if evidence.compared:
        study.notice(evidence.sentence)
    else:  # the usual is said anyway
        study.progress.detail(evidence.sentence)
    # A command that reads the run, or goes on with it, says again what was warned of when it was looked at.
    warn = study.warning if study.options.evidence else study.notice
    if evidence.warning is not None:
        warn(evidence.warning)
    source, shown = _followed(
        evidence, usual, prepare, fixed_parts(study.options, checkpoint, source), checkpoint
    )
    if evidence.compared and evidence.names != names_digest(checkpoint):
        as_usual = shown.colour_key == usual.preprocessing.colour_key
        warn(
            f"{printable(checkpoint.path.name)} is another network than {evidence.checkpoint}, whose "
            "statistics were looked at: its own were not, and its images are shown "
            + ("as is usual for it" if as_usual else "as that one's")
        )
    return source, shown, evidence


def _followed(
    evidence: InputEvidence,
    usual: Presentation,
    prepare: Callable[..., Preprocessing],
    fixed: Collection[str],
    checkpoint: Checkpoint,
) -> tuple[ModelSource, Preprocessing]:
    """What is usual, with the architecture, normalisation and order of colours that the evidence is for."""
    chosen = evidence.chosen
    if evidence.status not in ("taken", "confirmed") or chosen is None:
        return usual.source, usual.preprocessing
    source, given = usual.source, dict[str, object]()
    if "architecture" not in fixed and chosen.model != source.label:
        fit = fitting(source, checkpoint.state_dict)
        source = next((each for each in fit if each.label == chosen.model), source)
    if source is not usual.source:
        given["input_size"] = usual.preprocessing.geometry.size
    if "normalisation" not in fixed:
        given |= {"mean": chosen.mean, "std": chosen.std}
    if "channel order" not in fixed:
        given["channels"] = chosen.channels
    taken = prepare(source, **given)
    if source is usual.source and taken.colour_key == usual.preprocessing.colour_key:
        return source, usual.preprocessing
    return source, replace(taken, source="by the checkpoint's own statistics")


def input_of(study: Study) -> InputEvidence:
    """What the last checkpoint shows of how its images looked, whatever a run that is there was made with.

    Args:
        study: checkpoints and probing images; no layers are needed.

    Raises:
        InputError: no checkpoint can be read, or no known architecture fits.
    """
    study.anew = True
    last = study.last_checkpoint
    return presented(study, last, _source_of(study, last))[2]


def fixed_parts(options: DissectOptions, checkpoint: Checkpoint, source: ModelSource) -> frozenset[str]:
    """The parts of a presentation that the user gave, or the checkpoint's own name of its architecture."""
    said = (checkpoint.arch or "").rpartition("/")[2].partition(".")[0].lower()
    given = {
        "architecture": options.model is not None or said == source.name.lower(),
        "normalisation": options.mean is not None or options.std is not None,
        "channel order": options.channel_order is not None,
        "size": options.input_size is not None,
    }
    return frozenset(part for part, is_given in given.items() if is_given)


def _source_of(study: Study, checkpoint: Checkpoint) -> ModelSource:
    return resolve_model(
        study.options.model,
        checkpoint.state_dict,
        said=checkpoint.arch,
        family=checkpoint.family,
        config=checkpoint.config,
    )


def _evidence(
    study: Study,
    checkpoint: Checkpoint,
    source: ModelSource,
    prepare: Callable[..., Preprocessing],
    usual: Presentation,
) -> InputEvidence:
    names = names_digest(checkpoint)
    known = _of_the_run(study, names, usual)
    if known is not None:
        if study.options.evidence and not known.compared:
            study.warning(f"--evidence is not followed, as the run was begun otherwise: {known.reason}")
        return known
    if not study.options.evidence:
        return InputEvidence("not looked at", "the run was begun without --evidence", names=names)
    latest = _latest(study, checkpoint, source)
    if latest is None:
        return InputEvidence("not looked at", "the checkpoint's own statistics were not looked at")
    name, last, source = latest
    names = names_digest(last)
    if source.in_chans != 3:
        return InputEvidence("not looked at", "the network takes grey images", names=names)
    usual = Presentation(source, prepare(source))
    fixed = fixed_parts(study.options, last, source)
    sources = fitting(usual.source, last.state_dict, study.progress)
    key = evidence_key(
        usual,
        sources,
        weights_digest=last.digest,
        probe=study.listed_probe,
        fixed=fixed,
        seed=study.options.seed,
    )
    entry = study.store.get(key)
    if entry is None and study.options.dry_run:
        return InputEvidence(
            "not looked at", "the checkpoint's own statistics are looked at when the run begins"
        )
    if entry is None:
        # Tasks of a job array that want it at the same time wait for the first.
        with study.store.lock(key):
            entry = study.store.get(key)
            if entry is None:
                found = find_input(
                    last.state_dict,
                    usual,
                    sources,
                    prepare,
                    probe=study.listed_probe,
                    fixed=fixed,
                    device=study.device,
                    seed=study.options.seed,
                    progress=study.progress,
                )
                entry = study.store.put(key, {}, {"evidence": found.to_json()})
    with entry:
        found = InputEvidence.from_json(entry.meta["evidence"])
    return replace(found, checkpoint=name, names=names)


def names_digest(checkpoint: Checkpoint) -> str:
    """Of the names and shapes of the weights: which network of the run it is."""
    shapes = [[name, list(value.shape)] for name, value in sorted(checkpoint.state_dict.items())]
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def _of_the_run(study: Study, names: str, usual: Presentation) -> InputEvidence | None:
    """What the run that is there was made with; None for a new one, or with other options."""
    run = RunFolder(study.options.out)
    if study.anew or study.options.overwrite or not run.run_file.is_file():
        return None
    content = run.info().get("model", {}).get("input_evidence")
    if content is None:
        return InputEvidence("not looked at", "the run was begun without --evidence")
    found = InputEvidence.from_json(content)
    if found.names == names and found.usual is not None and not found.usual.is_of(usual):
        return None
    return found


def _latest(
    study: Study, checkpoint: Checkpoint, source: ModelSource
) -> tuple[str, Checkpoint, ModelSource] | None:
    """The last checkpoint of the run that can be used: its name, the checkpoint, and its network.

    None where the study has no checkpoints of its own (those of a finished run are opened one by one).
    """
    if not study.options.checkpoints:
        return None
    for file in reversed(study.all_files):
        try:
            if file.path == checkpoint.path:
                checkpoint.require_finite()
                return file.name, checkpoint, source
            loaded = load_checkpoint(file.path, **study.options.loading)
            loaded.require_finite()
            return file.name, loaded, _source_of(study, loaded)
        except InputError as error:  # said when its turn comes
            study.progress.detail(f"{file.name} is not looked at: {error.what}")
    return None
