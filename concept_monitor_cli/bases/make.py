"""How a basis is made: drawn at random, fitted to a layer's activations, or read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.bases.base import Basis
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.factors import (
    nonnegative_factors,
    principal_directions,
    random_directions,
)
from concept_monitor_cli.options import BasisSpec
from concept_monitor_cli.wording import counted

# Names under which the matrix of a basis, and the bias of a sparse autoencoder's encoder, are looked for.
_MATRIX = ("matrix", "W_enc", "encoder.weight", "directions", "vectors", "components", "cavs")
_BIAS = ("bias", "b_enc", "encoder.bias")
_NAMES = ("concepts", "names")
_CENTRE = ("centre", "b_dec", "pre_bias", "decoder.bias", "mean")


def fit_basis(spec: BasisSpec, channels: int, activations: Tensor | None = None, *, where: str = "") -> Basis:
    """Make a basis.

    Args:
        spec: what is asked for.
        channels: `C`, of the layer.
        activations: `(N, C)` pooled activations that `pca` and `nmf` are fitted to.
        where: the layer, for errors.

    Raises:
        InputError: more members than the layer has channels or images, negative activations for `nmf`, or a
            file that is no basis of this layer.
    """
    if spec.kind == "vectors" and spec.file is not None:
        return _vectors(spec, channels, where)
    if spec.file is not None:
        return _saved(spec.file, channels, where, spec.text)
    assert spec.size is not None
    if spec.kind == "random":
        return Basis.of(random_directions(channels, spec.size, seed=spec.seed).numpy())
    if activations is None:
        raise ValueError(f"{spec.text} is fitted to activations")
    most = min(activations.shape)
    if spec.size > most:
        raise InputError(
            f"{spec.size} members of {channels} channels seen on {counted(len(activations), 'images')}",
            where=f"--basis {spec.text}",
            hint=f"{where} has room for {most}",
        )
    if spec.kind == "pca":
        centre, directions = principal_directions(activations, spec.size)
        return Basis.of(directions.numpy(), centre=centre.numpy())
    if bool((activations < 0).any()):
        raise InputError(
            f"{where} has negative activations, which non-negative factors cannot make",
            where=f"--basis {spec.text}",
            hint="choose a layer behind its ReLU, or pca:R",
        )
    return Basis.of(nonnegative_factors(activations, spec.size).numpy(), "nonnegative")


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npy`, `.npz` or `.safetensors` file by name; `matrix` for a single array.

    Raises:
        InputError: it cannot be read, or is another kind of file.
    """
    where = f"--basis saved:{file}"
    if not file.is_file():
        raise InputError("there is no such file", where=where)
    try:
        if file.suffix == ".npy":
            return {"matrix": np.load(file, allow_pickle=False)}
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return {name: value.float().numpy() for name, value in load_file(file).items()}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"the file cannot be read: {error}", where=where) from error
    except Exception as error:  # safetensors has an error of its own that derives from nothing else
        if type(error).__module__.startswith("safetensors"):
            raise InputError(f"the file cannot be read: {error}", where=where) from error
        raise
    kind = file.suffix or "a file without an ending"
    raise InputError(f"{kind} holds no basis", where=where, hint=_FORMS)


_FORMS = "give an .npy, .npz or .safetensors with a matrix of channels x members"


def _vectors(spec: BasisSpec, channels: int, where: str) -> Basis:
    """What `cmon vectors` left of a layer in a run."""
    file = _vectors_file(spec, where)
    if not file.is_file():
        raise InputError(
            f"there are no concept vectors of {where}",
            where=f"--basis {spec.text}",
            hint=f"cmon vectors {spec.file} --layer {where}, or name another run: vectors:RUN",
        )
    return _saved(file, channels, where, spec.text)


def member_names(spec: BasisSpec, where: str, members: int) -> list[str]:
    """What the members of a basis are called: as its file says (`concepts` or `names`), else their numbers.

    Args:
        spec: which basis.
        where: the layer.
        members: how many there are.
    """
    numbers = [str(member) for member in range(members)]
    if spec.file is None:
        return numbers
    file = _vectors_file(spec, where) if spec.kind == "vectors" else spec.file
    named = _first(read_arrays(file), _NAMES)
    if named is None or named[1].shape != (members,):
        return numbers
    return [str(name) for name in named[1]]


def _vectors_file(spec: BasisSpec, where: str) -> Path:
    assert spec.file is not None
    return spec.file / "vectors" / f"{where.replace('/', '_')}.npz"


def _saved(file: Path, channels: int, where: str, text: str) -> Basis:
    arrays = read_arrays(file)
    place = f"--basis {text}"
    if "encoding" in arrays:
        basis = Basis.from_arrays(arrays)
    else:
        named = _first(arrays, _MATRIX)
        if named is None and len(arrays) == 1:
            named = next(iter(arrays.items()))
        if named is None:
            raise InputError(
                f"none of {', '.join(list(arrays)[:5])} is called like a basis",
                where=place,
                hint=f"call the matrix {_MATRIX[0]}, or W_enc for a sparse autoencoder",
            )
        name, matrix = named
        matrix = np.atleast_2d(matrix)
        # A linear layer's weight is members x channels.
        if name.endswith(".weight") or (matrix.shape[0] != channels and matrix.shape[1:] == (channels,)):
            matrix = matrix.T
        bias, centre = _first(arrays, _BIAS), _first(arrays, _CENTRE)
        basis = Basis.of(
            matrix,
            "linear" if bias is None else "rectified",
            None if bias is None else bias[1],
            None if centre is None else centre[1],
        )
    if basis.channels != channels:
        raise InputError(
            f"a basis of {basis.channels} channels, and {where} has {channels}",
            where=place,
            hint="it belongs to another layer, or another network",
        )
    return basis


def _first(arrays: dict[str, NDArray[Any]], names: tuple[str, ...]) -> tuple[str, NDArray[Any]] | None:
    return next(((name, arrays[name]) for name in names if name in arrays), None)
