"""How the work is cut: blocks that fit the cache on a processor, large ones on an accelerator.

On a processor the inner loops run on buffers just below torch's own threshold for starting threads, and whole
blocks are given to Python threads instead (torch and NumPy release the interpreter lock inside an operation).
Small operations on many OpenMP threads wait at a barrier each: as soon as another program uses a core, every
one of them costs a scheduler slice (8 ms instead of 5 us, seen on a shared 2-core machine).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

#: torch runs an elementwise operation on fewer elements than this in the calling thread
#: (`at::internal::GRAIN_SIZE`).
GRAIN = 32_768
#: Bytes of the block of softmax rows, ranks or products that is worked on at a time on a processor.
CPU_BLOCK_BYTES = 24 << 20
#: The same on an accelerator.
DEVICE_BLOCK_BYTES = 1 << 30
#: Elements of an inner buffer on an accelerator.
DEVICE_GRAIN = 1 << 25


def on_cpu(device: torch.device) -> bool:
    """Whether the work is done by Python threads over cache-sized buffers."""
    return device.type == "cpu"


def block_bytes(device: torch.device) -> int:
    """Bytes of one block of intermediate values."""
    return CPU_BLOCK_BYTES if on_cpu(device) else DEVICE_BLOCK_BYTES


def grain(device: torch.device) -> int:
    """Elements of one inner buffer."""
    return GRAIN - 1 if on_cpu(device) else DEVICE_GRAIN


def spans(total: int, step: int) -> Iterator[slice]:
    """`range(total)` cut into slices of `step`; the last one may be shorter."""
    for start in range(0, total, max(1, step)):
        yield slice(start, min(total, start + max(1, step)))


def width_for(rows: int, device: torch.device, *, item_bytes: int = 4, low: int = 32, high: int = 512) -> int:
    """How many concepts a block of `rows` images takes."""
    fitting = block_bytes(device) // max(1, rows * item_bytes)
    return max(low, min(fitting, high if on_cpu(device) else 1 << 20))


Runner = Callable[[Callable[[slice], None], Iterable[slice]], None]


@contextmanager
def runner(device: torch.device) -> Iterator[Runner]:
    """Yield `run(task, slices)`, which calls `task` for every slice, on threads where that helps.

    The number of threads is torch's own (`torch.get_num_threads()`, `OMP_NUM_THREADS`). Tasks write to
    disjoint parts of their results, so the outcome does not depend on the number of threads.
    """
    threads = min(torch.get_num_threads(), 16) if on_cpu(device) else 1
    if threads == 1:

        def serial(task: Callable[[slice], None], parts: Iterable[slice]) -> None:
            for part in parts:
                task(part)

        yield serial
        return

    with ThreadPoolExecutor(threads, thread_name_prefix="cmon-similarity") as pool:

        def threaded(task: Callable[[slice], None], parts: Iterable[slice]) -> None:
            def without_graph(part: slice) -> None:
                with torch.no_grad():  # the setting is per thread
                    task(part)

            for future in [pool.submit(without_graph, part) for part in parts]:
                future.result()

        yield threaded


def ordered_bits(values: Tensor) -> Tensor:
    """int32 with the order of the float32 `values`; NaN counts as minus infinity, -0.0 as 0.0."""
    clean = torch.where(values.isnan(), -torch.inf, values.float()) + 0.0
    bits = clean.contiguous().view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFF_FFFF)


def sort_rows_(keys: Tensor) -> Tensor:
    """Sort whole numbers along the last axis, in place where the device allows it; returns the sorted tensor.

    NumPy's vectorised sort of values is ten to thirty times faster than torch's on a processor, which always
    carries the indices along; here a key carries its own index in its low bits.
    """
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=-1)
        return keys
    return torch.sort(keys, dim=-1).values
