"""What a command tells its user instead of a traceback. Imports nothing of ours."""

import errno
import re
from collections.abc import Iterator

EXIT_FAILED = 1  # an error that is nobody's input: a fault of the program, a process that was killed or hangs
EXIT_USAGE = 2  # the shell's usual code: settings, data or devices do not fit
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: asked to stop; run the same command again

SAME_COMMAND = "then run the same command again: it goes on from what was finished"
SURROUNDINGS = {  # errors of the machine that a program can only tell of, and what to do
    errno.ENOSPC: f"free some space, {SAME_COMMAND}",
    errno.EDQUOT: f"free some space or have the quota raised, {SAME_COMMAND}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f), {SAME_COMMAND}",
    errno.EROFS: "choose a folder that can be written to (run.root, data.root)",
    errno.EACCES: "choose a folder that you may use (run.root, data.root), or have its permissions changed",
    errno.EPERM: "choose a folder that you may use (run.root, data.root), or have its permissions changed",
    errno.EIO: f"the disk or its server fails: have it looked at, {SAME_COMMAND}",
    errno.ESTALE: f"the file server has lost the file: {SAME_COMMAND}",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the machine's limit on open files (fs.file-max)",
}
NO_MEMORY = "choose smaller micro-batches (hardware.micro_batch_tokens) or fewer processes"
NUMBER = re.compile(r"\((?:os error|errno) (\d+)\)|\[[Ee]rrno (\d+)\]")  # as libraries write it into their own errors


class UserError(Exception):
    """A message for whoever typed the command: what was met, in which file or setting, and the way out."""


def message_for_people(error: BaseException) -> str | None:
    """One message where the error is the user's or the machine's to mend; None for a fault of the program.

    A full disk may reach us as the error of whatever library was writing, so the errors behind it count too.
    """
    if isinstance(error, UserError):
        return str(error)
    for each in _with_causes(error):
        if isinstance(each, MemoryError) or "can't allocate memory" in str(each):
            words = (str(each) or type(each).__name__).splitlines()[0]
            return f"the machine is out of memory ({words}): {NO_MEMORY}"
        number = _number(each)
        if number in SURROUNDINGS:
            return f"{each}: {SURROUNDINGS[number]}"
    return None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = NUMBER.search(str(error))
    return int(found[1] or found[2]) if found else None
