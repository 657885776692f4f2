"""How the work is cut: blocks that fit the cache on a processor, large ones on an accelerator.

On a processor whole blocks are given to Python threads, and torch does not start threads of its own inside
them (torch and NumPy release the interpreter lock inside an operation). Small operations on many OpenMP
threads wait at a barrier each: as soon as another program uses a core, every one of them costs a scheduler
slice (8 ms instead of 5 us, seen on a shared 2-core machine).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from functools import cache
from threading import Barrier, Lock, local

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

#: Elements of an inner buffer on a processor: two of them stay in a core's second-level cache.
CPU_GRAIN = 1 << 16
#: Bytes of the block of softmax rows, ranks or products that a thread works on.
CPU_BLOCK_BYTES = 12 << 20
#: The same two on an accelerator.
DEVICE_GRAIN = 1 << 25
DEVICE_BLOCK_BYTES = 1 << 30
#: Terms of a sum; operations of torch take a tenth of a second for them.
WORTH_COMPILING = 100_000_000
#: No more threads than this: each holds a block.
MOST_THREADS = 16


def on_cpu(device: torch.device) -> bool:
    """Whether the work is done by Python threads over cache-sized buffers."""
    return device.type == "cpu"


def block_bytes(device: torch.device) -> int:
    """Bytes of one block of intermediate values."""
    return CPU_BLOCK_BYTES if on_cpu(device) else DEVICE_BLOCK_BYTES


def grain(device: torch.device) -> int:
    """Elements of one inner buffer."""
    return CPU_GRAIN if on_cpu(device) else DEVICE_GRAIN


def worth_compiling(terms: int, device: torch.device) -> bool:
    """Whether a second for compiling loops over all terms is gained back within a few layers and epochs.

    It depends on nothing else: compiled loops differ from operations of torch in the last digit, and a result
    must not depend on what was computed before.
    """
    return on_cpu(device) and terms >= WORTH_COMPILING


def spans(total: int, step: int) -> Iterator[slice]:
    """`range(total)` cut into slices of `step`; the last one may be shorter."""
    for start in range(0, total, max(1, step)):
        yield slice(start, min(total, start + max(1, step)))


def width_for(rows: int, device: torch.device, *, item_bytes: int = 4, low: int = 32, high: int = 256) -> int:
    """How many concepts a block of `rows` images takes."""
    fitting = block_bytes(device) // max(1, rows * item_bytes)
    return max(low, min(fitting, high if on_cpu(device) else 1 << 20))


def empty(*shape: int, device: torch.device) -> Tensor:
    """A float32 tensor with any content, on a processor in large pages where the system has them.

    NumPy asks Linux for pages of two megabytes. 40 MB are there at once, and a column of a wide table costs
    no search for the page of each row.
    """
    if on_cpu(device):
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(shape, device=device)


class Workspace:
    """Buffers of a computation, one for every name and thread, freed with the workspace.

    A block's megabytes are asked for thousands of times; a processor's allocator gives them back to the
    system each time and has every page filled with zeros again.

    Example:
        >>> space = Workspace(torch.device("cpu"))
        >>> tile = space("tile", 3, 4)
        >>> tile.shape, space("tile", 2, 4).data_ptr() == tile.data_ptr()
        (torch.Size([3, 4]), True)
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = local()

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A float32 tensor of this shape with any content; it is the one that the name gave before."""
        buffers: dict[str, Tensor] = self._own.__dict__
        size = math.prod(shape)
        if name not in buffers or buffers[name].numel() < size:
            buffers[name] = empty(size, device=self._device)
        return buffers[name][:size].view(shape)


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_making_pools = Lock()


def _single_threaded(workers: int) -> ThreadPoolExecutor:
    """A pool in whose threads torch runs every operation in the calling thread; one for each process.

    Kept: the system starts two new threads on one core, and takes milliseconds to part them.

    `torch.set_num_threads` holds for the thread that calls it and for threads that use torch later, so the
    workers set 1 and the caller restores its own number once all of them have.
    """
    with _making_pools:
        key = (os.getpid(), workers)
        if key not in _pools:
            before = torch.get_num_threads()
            ready = Barrier(workers + 1)

            def start() -> None:
                torch.get_num_threads()  # the common number is taken over at a thread's first call: now
                torch.set_num_threads(1)
                ready.wait()

            pool = ThreadPoolExecutor(workers, thread_name_prefix="cmon-functional", initializer=start)
            for _ in range(workers):
                pool.submit(int)  # a thread is started for each, as none is idle before the barrier opens
            ready.wait()
            torch.set_num_threads(before)
            _pools[key] = pool
        return _pools[key]


def run_blocks(task: Callable[[slice], None], parts: Iterable[slice], device: torch.device) -> None:
    """Call `task` for every slice: on threads on a processor, else in turn.

    The number of threads is torch's own (`torch.get_num_threads()`, `OMP_NUM_THREADS`). Tasks write to
    disjoint parts of their results, so the outcome does not depend on the number of threads.
    """
    parts = list(parts)
    threads = min(torch.get_num_threads(), MOST_THREADS) if on_cpu(device) else 1
    if threads <= 1 or len(parts) <= 1:
        for part in parts:
            task(part)
        return

    def without_graph(part: slice) -> None:
        with torch.no_grad():  # the setting is per thread
            task(part)

    # A worker runs torch on one thread, so that blocks within blocks come past the line above.
    pool = _single_threaded(threads)
    futures: list[Future[None]] = []
    try:
        futures.extend(pool.submit(without_graph, part) for part in parts)
        # Woken once, not by every block: the caller would take the core from a worker.
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        for future in futures:
            future.cancel()
        wait(futures)
    for future in futures:
        if not future.cancelled():
            future.result()


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[object]:
    """NumPy computes products in the thread that asks for them.

    Its threads and those of torch would wait for each other: a small product takes thirty times as long.
    """
    limited: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return limited


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


def sort_columns(values: Tensor) -> tuple[Tensor, Tensor]:
    """Columns sorted, the largest first and of equal values the first first: values and rows, `(n, B)` each.

    Args:
        values: `(n, B)`, none of them NaN.
    """
    if values.dtype != torch.float32 or not on_cpu(values.device):
        found = torch.sort(values, dim=0, descending=True, stable=True)
        return found.values, found.indices
    rows = torch.arange(len(values))
    order = (sort_rows_((~ordered_bits(values.T).long() << 32) | rows) & 0xFFFF_FFFF).T
    return values.gather(0, order), order
