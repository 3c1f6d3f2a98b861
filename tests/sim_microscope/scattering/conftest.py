"""One BLAS thread: small eigenproblems on a busy machine lose by waiting for a second core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    try:
        import threadpoolctl
    except ImportError:
        yield
        return
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield
