"""A basis of a layer: `R` members, each a reading of the layer's `C` channels.

The channels themselves are the basis that every layer has. Another one is named after a layer, `layer4@pca8`,
and is then a layer of its own for everything that reads tables: its members are its units.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.factors import nonnegative_coefficients

Encoding = Literal["linear", "rectified", "nonnegative"]


@dataclass(frozen=True)
class Basis:
    """`R` members, read off the channels of a layer.

    Attributes:
        matrix: `(C, R)` float32: a column for each member.
        encoding: `linear`: `a @ matrix + bias`; `rectified`: the same, and 0 where it is negative (a sparse
            autoencoder's encoder); `nonnegative`: the non-negative coefficients whose sum of columns comes
            nearest to `a`.
        bias: `(R,)` float32, zeros where there is none.
        centre: `(C,)` float32, taken from `a` first; zeros where there is none.
    """

    matrix: NDArray[np.float32]
    encoding: Encoding
    bias: NDArray[np.float32]
    centre: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        matrix: NDArray[Any],
        encoding: Encoding = "linear",
        bias: NDArray[Any] | None = None,
        centre: NDArray[Any] | None = None,
    ) -> Basis:
        """A basis of any float arrays.

        Raises:
            InputError: shapes that do not fit, or values that are not finite.
        """
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise InputError(f"a basis is a matrix of channels x members, not of shape {matrix.shape}")
        channels, members = matrix.shape
        parts = (
            matrix,
            np.zeros(members) if bias is None else bias,
            np.zeros(channels) if centre is None else centre,
        )
        if parts[1].shape != (members,) or parts[2].shape != (channels,):
            raise InputError(
                f"a matrix of {channels} x {members} with a bias of shape {parts[1].shape} and a centre of "
                f"shape {parts[2].shape}"
            )
        if not all(np.isfinite(part).all() for part in parts):
            raise InputError("a basis holds values that are infinite or not a number")
        matrix, bias, centre = (np.ascontiguousarray(part, dtype=np.float32) for part in parts)
        return cls(matrix, encoding, bias, centre)

    @property
    def channels(self) -> int:
        """`C`."""
        return int(self.matrix.shape[0])

    @property
    def members(self) -> int:
        """`R`."""
        return int(self.matrix.shape[1])

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the content."""
        digest = hashlib.sha256(self.encoding.encode())
        for part in (self.matrix, self.bias, self.centre):
            digest.update(repr(part.shape).encode() + part.tobytes())
        return digest.hexdigest()

    def encode(self, activations: Tensor) -> Tensor:
        """The members' activations.

        Args:
            activations: `(..., C)` float32, on any device.

        Returns:
            `(..., R)` float32.
        """
        matrix, bias, centre = self._on(activations.device)
        centred = activations.float() - centre
        if self.encoding == "nonnegative":
            flat = nonnegative_coefficients(centred.reshape(-1, self.channels), matrix)
            return flat.reshape(*activations.shape[:-1], self.members)
        encoded = centred @ matrix + bias
        return encoded.clamp_min_(0) if self.encoding == "rectified" else encoded

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Matrix, bias and centre as tensors, sent to a device once."""
        sent: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = self.__dict__.setdefault("_sent", {})
        if device not in sent:
            matrix, bias, centre = (
                torch.from_numpy(part).to(device) for part in (self.matrix, self.bias, self.centre)
            )
            sent[device] = matrix, bias, centre
        return sent[device]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """For a store entry or an `.npz` file; `from_arrays` reads it."""
        return {
            "matrix": self.matrix,
            "bias": self.bias,
            "centre": self.centre,
            "encoding": np.array(self.encoding),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Basis:
        """What `to_arrays` gave."""
        encoding: Any = str(arrays["encoding"])
        return cls.of(arrays["matrix"], encoding, arrays["bias"], arrays["centre"])
