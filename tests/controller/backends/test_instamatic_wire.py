"""instamatic's protocol: pickles that may hold only plain values, no frames, no request numbers."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import shared_memory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backends.instamatic.driver import (
    InstamaticOptions,
    _from_shared_memory,
    nm_or_deg,
    open_adapter,
    um_or_deg,
)
from controller.backends.instamatic.pickles import read_pickle
from controller.backends.instamatic.wire import Wire
from controller.backends.loopback import check_host
from controller.hardware.errors import ProtocolError
from controller.hardware.values import Axis
from tests.strategies import numbers

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


class Malice:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch /tmp/should-never-exist",)


class Sly:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (np.ndarray, "tofile")


@given(value=plain, protocol=st.integers(0, 5))
def test_plain_values_are_read_whatever_the_pickle_protocol(value: object, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32])
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_and_their_scalars_are_read(dtype: type, protocol: int) -> None:
    image = np.arange(15, dtype=dtype).reshape(3, 5)
    np.testing.assert_array_equal(read_pickle(pickle.dumps(image, protocol)), image)  # type: ignore[arg-type]
    assert read_pickle(pickle.dumps(image[1, 2], protocol)) == image[1, 2]


@pytest.mark.parametrize("evil", [Malice(), Sly(), [1, {"a": Malice()}], np.array([Malice()])])
def test_a_pickle_that_asks_to_run_something_is_refused_and_nothing_runs(evil: object) -> None:
    with pytest.raises(ProtocolError, match=r"asks to run .* it was not run"):
        read_pickle(pickle.dumps((200, evil)))
    assert not os.path.exists("/tmp/should-never-exist")


@given(data=st.binary(max_size=60))
def test_noise_is_an_error_of_the_protocol_or_unfinished(data: bytes) -> None:
    with suppress(ProtocolError, EOFError):
        read_pickle(data)


def test_the_pose_of_instamatic_comes_without_instamatic() -> None:
    data = b"cinstamatic.microscope.utils\nStagePositionTuple\n(I1\nI2\nI3\nF4.5\nNt\x81."
    assert read_pickle(b"\x80\x02" + data) == (1, 2, 3, 4.5, None)


@contextmanager
def server(*answers: bytes, pause: threading.Event | None = None) -> Iterator[tuple[str, int]]:
    """Answers each question in turn, in two pieces; waits for `pause` before the first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            left = list(answers)
            while left:
                try:
                    connection = listening.accept()[0]
                except OSError:
                    return
                with connection:
                    while left and connection.recv(4096):
                        if pause is not None:
                            pause.wait(5)
                        answer = left.pop(0)
                        try:
                            connection.sendall(answer[:7])
                            connection.sendall(answer[7:])
                        except OSError:
                            break

        threading.Thread(target=serve, daemon=True).start()
        address = listening.getsockname()
        yield address[0], address[1]


def test_an_answer_in_pieces_is_put_together() -> None:
    with server(pickle.dumps((200, list(range(1000))))) as address:
        wire = Wire(address, "pickle", 2.0, "func_name")
        assert wire.ask("anything") == list(range(1000))
        wire.close()


def test_what_the_server_reports_as_an_error_is_one() -> None:
    with server(pickle.dumps((500, ("TEMValueError", ("no such mode",))))) as address:
        wire = Wire(address, "pickle", 2.0, "func_name")
        with pytest.raises(
            ProtocolError, match=r"setFunctionMode: the server says 500.*no such"
        ) as e:
            wire.ask("setFunctionMode", "moon")
        assert e.value.vendor_code == 500
        wire.close()


def test_after_a_timeout_the_late_answer_is_not_taken_for_the_next_one() -> None:
    pause = threading.Event()
    with server(pickle.dumps((200, "late")), pickle.dumps((200, "right")), pause=pause) as address:
        wire = Wire(address, "pickle", 0.2, "func_name")
        with pytest.raises(TimeoutError):
            wire.ask("first")
        pause.set()
        wire._timeout_s = 3.0
        assert wire.ask("second") == "right"
        wire.close()


def test_an_answer_without_a_status_makes_no_sense() -> None:
    with server(pickle.dumps("exit")) as address:
        wire = Wire(address, "pickle", 2.0, "func_name")
        with pytest.raises(ProtocolError, match="not a status and a value"):
            wire.ask("name")


def test_a_question_that_the_server_would_cut_is_not_sent() -> None:
    wire = Wire(("127.0.0.1", 9), "json", 1.0, "func_name")
    with pytest.raises(ProtocolError, match="too long for the server; nothing was sent"):
        wire.ask("name", "x" * 2000)


@given(axis=st.sampled_from(list(Axis)), sign=st.sampled_from([-1, 1]), value=numbers(-900, 900))
def test_stage_values_there_and_back_to_half_a_nanometre(
    axis: Axis, sign: int, value: float
) -> None:
    there = nm_or_deg(axis, value, sign)
    assert um_or_deg(axis, there, sign) == pytest.approx(value, abs=0.0005001)
    if axis.value.endswith("_um"):
        assert there.is_integer()


def test_an_image_in_shared_memory_is_copied_and_stays_with_its_owner() -> None:
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    owner = shared_memory.SharedMemory(create=True, size=image.nbytes)
    np.ndarray(image.shape, image.dtype, buffer=owner.buf)[:] = image
    try:
        told = {"name": owner.name, "shape": (3, 4), "dtype": "uint16"}
        np.testing.assert_array_equal(_from_shared_memory(told), image)
        with pytest.raises(ProtocolError, match="does not fit"):
            _from_shared_memory(told | {"shape": (300, 4000)})
        with pytest.raises(ProtocolError, match="without name, shape and dtype"):
            _from_shared_memory({"name": 3})
    finally:
        owner.close()
        _retrack(owner.name)
        owner.unlink()


def _retrack(name: str) -> None:
    """In this process reader and owner share a tracker, which the reader has told to forget."""
    from multiprocessing import resource_tracker

    resource_tracker.register(f"/{name}", "shared_memory")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_allowed(host: str) -> None:
    check_host(host, allow_remote=False, what="it")


def test_another_machine_is_refused_unless_the_site_insists() -> None:
    with pytest.raises(ValueError, match=r"another machine.*instamatic's server asks nobody"):
        check_host("192.0.2.7", allow_remote=False, what="instamatic's server")
    check_host("192.0.2.7", allow_remote=True, what="instamatic's server")
    with pytest.raises(ValueError, match="site: Field required"):
        open_adapter({"host": "127.0.0.1"})
    assert InstamaticOptions.model_fields["allow_remote"].default is False
