"""What a file is, by its name and first bytes: a checkpoint, something beside one, or another framework's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

EXTENSIONS = (".pth.tar", ".pt.tar", ".pyth", ".pt", ".pth", ".ckpt", ".bin", ".safetensors")
INDEX = ".index.json"  # Hugging Face: says which of several files holds which parameter
DCP_METADATA = ".metadata"

# Training code saves with these as well, and much else has them: the first bytes decide.
_MAYBE = (
    *(".tar", ".ckp", ".chk", ".chkpt", ".chkp", ".checkpoint", ".cpt", ".cp", ".mdl", ".model", ".models"),
    *(
        ".weights",
        ".weight",
        ".w",
        ".torch",
        ".tch",
        ".t7",
        ".params",
        ".param",
        ".state",
        ".state_dict",
        ".sd",
    ),
    *(".net", ".nn", ".save", ".snapshot", ".snap", ".dict", ".pkl", ".pickle", ".p", ".th", ".dat", ".data"),
    ".pts",
)
# These say something besides.
_SAYING = (".best", ".last", ".final", ".latest", ".init", ".ema")
# `model.pt-1000`, `ckpt.12`, `snapshot.epoch3`
_NUMBERED = re.compile(r"\.(?:pt|pth|ckpt|e|ep|epoch|step|iter)?[-_=]?\d+[kKmM]?$", re.IGNORECASE)
_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")  # torch.save, now and before 1.6
_SMALLEST = 256  # bytes

# What is in files of other kinds that hold weights as well. They are named where they lie among checkpoints.
_FOREIGN = {
    "of Keras or another program that writes HDF5": (".h5", ".hdf5", ".keras"),
    "of PaddlePaddle": (".pdparams", ".pdiparams", ".pdopt"),
    "of JAX or Flax": (".msgpack", ".orbax"),
    "of TensorFlow": (".ckpt.index", ".ckpt.meta", ".pb", ".tflite"),
    "of Caffe or MXNet": (".caffemodel", ".mxnet"),
    "exported programs": (
        ".onnx",
        ".pt2",
        ".ts",
        ".jit",
        ".torchscript",
        ".ptl",
        ".mar",
        ".engine",
        ".mlmodel",
    ),
    "of llama.cpp": (".gguf", ".ggml"),
    "archives (unpack them)": (
        ".nemo",
        *(e + z for e in EXTENSIONS for z in (".gz", ".zst", ".xz", ".bz2", ".zip")),
    ),
}
_FOREIGN_BY_NAME = tuple((extension, what) for what, names in _FOREIGN.items() for extension in names)
_TENSORFLOW_PART = re.compile(r"\.data-\d{5}-of-\d{5}$")

# What trainers save beside the weights.
_OTHER_STATE = re.compile(
    r"(optim(izer)?s?|opt(im)?_?state|(lr_?)?sched(uler)?|(grad_?|loss_?)?scaler|rng_?states?|random_?states?|"
    r"training_args|trainer_state|train(er|ing)_?log|(data_?)?(loader|sampler)(_?state)?|dl_state_dict|"
    r"(pruning_?)?masks?)([_\-.\d].*)?"
    r"|.*[_\-.](optim_states?|optim(izer)?(_state)?(_\d+)?|scheduler|(pruning_?)?masks?)",
    re.IGNORECASE,
)
_TEMPORARY = re.compile(
    r"(^\.)|(^te?mp[_\-.])|(\.(tmp|temp|part|partial|incomplete|swp|bak)(\.|$))|(~$)", re.IGNORECASE
)

# Copies of some epoch rather than an epoch of their own.
_COPY = re.compile(
    r"(?<![a-z])(?:model|ckpt|checkpoint|weights?|net|ema)?(?:best|last|latest|final|current|newest|resume)"
    r"(?:model|ckpt|checkpoint|weights?|net)?(?![a-z])",
    re.IGNORECASE,
)
# Before the training.
_INITIAL = re.compile(
    r"(?<![a-z])(?:init|initial|initiali[sz]ed|initiali[sz]ation|untrained|random_?init)(?![a-z])"
    r"|(?:epoch|ep|step|iter)[_=]-1(?!\d)",
    re.IGNORECASE,
)
# Somewhere within an epoch, because something went wrong or time was up.
_HALF_WAY = re.compile(
    r"(?<![a-z])(?:recovery|recover|crash(?:ed|_?dump)?|interrupt(?:ed)?|exception|emergency|preempt(?:ed|ion)?|"
    r"autosave|auto_save|keyboard_?interrupt|sigterm|sigusr\d?|hpc_ckpt|oom|abort(?:ed)?)(?![a-z])"
    r"|(?<![a-z])te?mp$",
    re.IGNORECASE,
)
# A network beside the one that is trained.
_BESIDE = re.compile(
    r"(?<![a-z])(?:ema|swa|averaged?|teacher|momentum|target|discriminator|disc|critic|netd|net_d|d_|old|backup|bak)"
    r"(?![a-z])",
    re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")

Role = Literal["copy", "initial", "half-way", "regular"]


def is_checkpoint_name(path: Path) -> bool:
    """Whether a file's name has the extension of a checkpoint."""
    return path.name.lower().endswith(EXTENSIONS)


def is_dcp(path: Path) -> bool:
    """Whether this is a folder written by torch.distributed.checkpoint."""
    return path.is_dir() and (path / DCP_METADATA).is_file()


def may_be_checkpoint(path: Path) -> bool:
    """Whether a file has a checkpoint's extension, or a more general one and a checkpoint's first bytes."""
    name = path.name.lower()
    if name.endswith((*EXTENSIONS, ".bin" + INDEX, ".safetensors" + INDEX)):
        return True
    if "." in name and not name.endswith(_MAYBE + _SAYING) and not _NUMBERED.search(name):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(64)
        return head.startswith(_MAGIC) and path.stat().st_size >= _SMALLEST
    except OSError:
        return False


def is_plain_pickle(path: Path) -> bool:
    """Whether a file is called a pickle and begins like one of `pickle.dump`: anything may be in it."""
    if path.suffix.lower() not in (".pkl", ".pickle") or is_other_state(path):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(2)
    except OSError:
        return False
    return head[:1] == b"\x80" and b"\x02" <= head[1:] <= b"\x05"


def foreign(path: Path) -> str | None:
    """What a file of weights is that cannot be read here, as `of Keras`; None for any other file."""
    name = path.name.lower()
    if _TENSORFLOW_PART.search(name):
        return "of TensorFlow"
    return next((what for extension, what in _FOREIGN_BY_NAME if name.endswith(extension)), None)


def is_beside(path: Path) -> bool:
    """Whether a name is that of an optimizer, a scheduler, a random state, a mask or a temporary file."""
    return bool(_TEMPORARY.search(path.name)) or is_other_state(path)


def is_other_state(path: Path) -> bool:
    """Whether a name is that of an optimizer, a scheduler, a random state or a mask."""
    return bool(_OTHER_STATE.fullmatch(stem(path)))


def stem(path: Path) -> str:
    """The name without a checkpoint's extension (`.pth.tar` is one)."""
    name = path.name.removesuffix(INDEX)
    lowered = name.lower()
    for extension in (*EXTENSIONS, *_MAYBE):
        if lowered.endswith(extension):
            return name[: -len(extension)] or name
    return name


def role(name: str) -> Role:
    """What a name says of its place in the training.

    Args:
        name: of a file or folder, without extension.
    """
    spaced = _HUMP.sub("_", name)
    for pattern, found in ((_HALF_WAY, "half-way"), (_COPY, "copy"), (_INITIAL, "initial")):
        if pattern.search(spaced):
            return found  # type: ignore[return-value]
    return "regular"


def is_beside_network(name: str) -> bool:
    """Whether a name says that this is an average, a teacher, a critic or a backup."""
    return bool(_BESIDE.search(_HUMP.sub("_", name)))
