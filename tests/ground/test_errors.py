"""Errors of the machine reach people as one sentence, whichever library met them first."""

import errno
import os

import pytest

from bert_lamb.errors import UserError, message_for_people


def raised(make):
    with pytest.raises(Exception) as caught:  # noqa: PT011, whatever it is
        make()
    return caught.value


def os_error(number: int):
    def make() -> None:
        raise OSError(number, os.strerror(number), "/place/file")

    return make


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "run.root"),
        (errno.EACCES, "permissions"),
        (errno.EIO, "disk"),
        (errno.ESTALE, "file server"),
    ],
)
def test_a_disk_that_fails_is_named_with_the_way_out(number, way_out):
    message = message_for_people(raised(os_error(number)))
    assert "/place/file" in message
    assert os.strerror(number) in message
    assert way_out in message


@pytest.mark.parametrize(
    "text", ["I/O error: No space left on device (os error 28)", "[Errno 28] Error writing bytes to file"]
)
def test_an_error_that_a_library_has_worded_counts(text):
    assert "free some space" in message_for_people(RuntimeError(text))


def test_the_errors_behind_an_error_count():
    def chained() -> None:
        try:
            os_error(errno.ENOSPC)()
        except OSError as error:
            raise RuntimeError("writing failed") from error

    assert "free some space" in message_for_people(raised(chained))


def test_memory_is_named():
    assert "out of memory" in message_for_people(MemoryError())
    words = (
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    assert "hardware.micro_batch_tokens" in message_for_people(RuntimeError(words))


@pytest.mark.parametrize("error", [ValueError("28"), KeyError(28), FileNotFoundError(2, "none", "x"), RuntimeError("")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    assert message_for_people(error) is None


def test_a_message_for_people_stays_as_it_is():
    assert message_for_people(UserError("as [Errno 28] it is")) == "as [Errno 28] it is"
