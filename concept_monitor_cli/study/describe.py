"""What `run.json` says: with what a run was made, and what all its tables must share."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from concept_monitor_cli import __version__
from concept_monitor_cli.encoders import Encoder
from concept_monitor_cli.probe.groups import COPIES, PARENT
from concept_monitor_cli.study.networks import Architecture
from concept_monitor_cli.study.study import BUILTIN, Study


def settings(study: Study, architecture: Architecture) -> dict[str, Any]:
    """What all tables of a run must share, so that they can be compared."""
    return {
        "probe": study.context.probe.digest,
        "groups": study.context.groups_digest,
        "concepts": study.concepts.digest,
        **({} if study.encoder is None else {"encoder": study.encoder.digest}),
        "templates": list(study.options.templates),
        "input": {
            key: value for key, value in architecture.preprocessing.to_json().items() if key != "source"
        },
        "pooling": study.options.pooling,
        "precision": study.options.precision,
        "seed": study.options.seed,
        "null": study.options.null,
        "fdr": study.options.fdr,
        "detectors": {lens.name: lens.settings() for lens in study.lenses},
    }


def info(study: Study, architecture: Architecture) -> dict[str, Any]:
    """The content of `run.json`, except for what the tables know."""
    probe = study.context.probe
    return {
        "cmon": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(),
        "options": study.options.as_dict(),
        "option_sources": dict(study.options.sources),
        "settings": settings(study, architecture),
        "traits": {lens.name: lens.traits().to_json() for lens in study.lenses},
        "probe": {
            "name": probe.name,
            "spec": _absolute_spec(study.options.probe or BUILTIN),
            "images": len(probe),
            "digest": probe.digest,
            "skipped": [{"image": item.id, "reason": item.reason} for item in probe.skipped],
            "groups": study.context.groups.n_groups,
            "groups_by": COPIES if study.options.groups is None else _absolute_groups(study.options.groups),
        },
        "concepts": {
            "name": study.concepts.name,
            "spec": None if study.options.concepts is None else _absolute_spec(study.options.concepts),
            "count": len(study.concepts),
            "digest": study.concepts.digest,
        },
        "encoder": None if study.encoder is None else _encoder_info(study, study.encoder),
        "model": {
            "name": architecture.source.name,
            "library": architecture.source.library,
            "alternatives": list(architecture.source.alternatives),
            "preprocessing": architecture.preprocessing.to_json(),
            "input_evidence": architecture.evidence.to_json(),
        },
        "unreadable": {item.name: item.error.what for item in study.unreadable},
        "notices": study.notices,
    }


def _encoder_info(study: Study, encoder: Encoder) -> dict[str, Any]:
    return {
        "name": encoder.name,
        "digest": encoder.digest,
        "spec": _absolute_spec(study.options.encoder or encoder.name),
        "weights": _absolute(study.options.encoder_weights),
        "config": _absolute(study.options.encoder_config),
        "precision": study.options.precision,
        "templates": list(study.options.templates),
    }


def _absolute_spec(spec: str) -> str:
    """A `--probe` whose path holds from any folder: `photos/` and the path in `cifar10:DIR`."""
    scheme, colon, rest = spec.rpartition(":")
    path = Path(rest).expanduser()
    if Path(spec).expanduser().exists():
        return str(Path(spec).expanduser().resolve())
    if any(sign in spec for sign in "*?["):  # a pattern
        return str(Path.cwd() / Path(spec).expanduser())
    return f"{scheme}{colon}{path.resolve()}" if scheme and path.exists() else spec


def _absolute_groups(spec: str) -> str:
    return spec if spec == PARENT else str(Path(spec).expanduser().resolve())


def _absolute(path: Any) -> str | None:
    return None if path is None else str(path.resolve())


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    libraries = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "h5py", "umap-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}
