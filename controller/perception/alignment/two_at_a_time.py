"""Independent climbs on two cores.

Eigen-solutions, matrix products and compiled loops let go of the interpreter's lock; what is
between them does not, so that more than two threads would only wait.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def for_each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What ``work`` returns for every item, in order, two at a time.

    ``work`` must not call this again: both threads could then wait for each other.
    """
    listed = list(items)
    if len(listed) < 2:
        return [work(item) for item in listed]
    return list(_threads().map(work, listed))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="align")


# a forked child inherits the pool but not its threads, and would wait for them for ever
if hasattr(os, "register_at_fork"):  # Windows has none, and does not fork
    os.register_at_fork(after_in_child=_threads.cache_clear)
