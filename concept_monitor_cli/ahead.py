"""One thing made in a thread while the one before it is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def one_ahead(
    make: Callable[[Item], Made], items: Sequence[Item], *, name: str, stop: Callable[[], None] | None = None
) -> Generator[tuple[Item, Callable[[], Made]], None, None]:
    """Every item, with what gives `make(item)`; the next one is made meanwhile.

    No more than two results are in memory. Close the generator where it may not be used to its end: an
    exception keeps it alive, and with it the thread.

    Args:
        make: called in a thread, once for each item, in order.
        items: what it is called with.
        name: of the thread.
        stop: called at the end, to cut short what is still being made; then that is not waited for, except
            by Python when it ends.

    Yields:
        the item, and a function to be called once: it waits for the result, or raises what `make` raised.
    """
    waiting: deque[Future[Made]] = deque()

    def take() -> Made:
        return waiting.popleft().result()

    pool = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        for number, item in enumerate(items):
            # Of the first, itself; of each, the next.
            waiting.extend(pool.submit(make, near) for near in items[number + bool(number) : number + 2])
            yield item, take
    finally:
        if stop is not None:
            stop()
        pool.shutdown(wait=stop is None, cancel_futures=True)
