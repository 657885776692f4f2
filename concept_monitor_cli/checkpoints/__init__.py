"""Checkpoints on disk: found, put in order, loaded without running code, and recognised."""

from concept_monitor_cli.checkpoints.digest import combined_digest, tensor_digest, weights_digest
from concept_monitor_cli.checkpoints.find import EXTENSIONS, CheckpointFile, find_checkpoints
from concept_monitor_cli.checkpoints.formats import NoWeightsError
from concept_monitor_cli.checkpoints.load import Checkpoint, checkpoint_of, load_checkpoint
from concept_monitor_cli.checkpoints.order import LeftOut, Placed
from concept_monitor_cli.checkpoints.prefixes import strip_prefixes
from concept_monitor_cli.checkpoints.pruning import fold_masks, sparsity
from concept_monitor_cli.checkpoints.recognition import Recognition, UnrecognisedError, recognise
from concept_monitor_cli.checkpoints.resolve import (
    NoneUsableError,
    NotRecognisedError,
    Reader,
    Resolved,
    Unusable,
    resolve,
)

__all__ = [
    "EXTENSIONS",
    "Checkpoint",
    "CheckpointFile",
    "LeftOut",
    "NoWeightsError",
    "NoneUsableError",
    "NotRecognisedError",
    "Placed",
    "Reader",
    "Recognition",
    "Resolved",
    "UnrecognisedError",
    "Unusable",
    "checkpoint_of",
    "combined_digest",
    "find_checkpoints",
    "fold_masks",
    "load_checkpoint",
    "recognise",
    "resolve",
    "sparsity",
    "strip_prefixes",
    "tensor_digest",
    "weights_digest",
]
