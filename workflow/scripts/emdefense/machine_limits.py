"""What a machine lacked, told from the many exceptions that say so: memory, room on a disk, the right to write.

Each library has its own: Python's and the kernel's, those of torch's allocators, and those written in Rust, which keep
the text of the kernel's message and not its number.
"""

import errno
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = re.compile(
    r"MemoryError|out of memory|(can't|cannot) allocate memory(?! in static TLS)|not enough memory|bad_alloc|"
    r"STATUS_ALLOC_FAILED|"
    r"failed to map segment from shared object",
    re.IGNORECASE,
)
_THREADS = re.compile(r"can't start new thread|pthread_create failed|thread creation failed", re.IGNORECASE)
_ROOM = re.compile(
    r"no space left on device|disk quota exceeded|\(os error (28|122)\)|inline_container.*unexpected pos",
    re.IGNORECASE,
)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE}
_REFUSED |= {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}  # something else has the name
_AGAIN = "then run it again: what is finished is kept"


class MachineError(RuntimeError):
    """The machine did not suffice: the message says of what there was too little, and what to do."""

    status = 1  # a script's exit status


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise :class:`MachineError` that names ``path`` if the block finds no room on a disk.

    Some libraries say something else then (of Parquet, "Invalid thrift: transport error"), so the disk is asked, too.
    """
    try:
        yield
    except MachineError:  # which names what was written within
        raise
    except Exception as error:
        if any(map(_is_room, _chain(error))) or (not isinstance(error, ValueError | TypeError) and _is_full(path)):
            raise MachineError(_room(str(path))) from error
        raise


def lack(error: BaseException) -> str | None:
    """Return in one line what the machine lacked where that is why ``error`` was raised, else None."""
    for each in _chain(error):
        if isinstance(each, MachineError):
            return str(each)
        if (
            isinstance(each, MemoryError)
            or _number(each) == errno.ENOMEM
            or _MEMORY.search(str(each))
            or _gave_out(each)
        ):
            return _memory(str(each))
        if _THREADS.search(str(each)):
            return (
                f"no further thread can be started; raise the limits on processes and memory (ulimit -u, -v), {_AGAIN}"
            )
        if _is_room(each):
            return _room(_file(each))
        if _number(each) in _REFUSED:
            return f"{_file(each) or 'a file'}: {getattr(each, 'strerror', each)}; correct that, {_AGAIN}"
    return None


def killed(signal: int) -> str:
    """Return in one line that a job was killed by the signal of this number, and what that means."""
    why = ", probably for want of memory; give it more, or lower batch_size" if signal == 9 else "; see why"
    return f"the job was killed (signal {signal}){why}, {_AGAIN}"


def _memory(said: str) -> str:
    asked = re.search(r"(?:tried|unable) to allocate ([\d.]+ \w+)", said, re.IGNORECASE)
    where = "the GPU's memory" if re.search("cuda|hip|gpu", said, re.IGNORECASE) else "memory"
    wanted = f" (it asked for {asked[1]} more)" if asked else ""
    return f"out of {where}{wanted}; give the job more, or lower batch_size, {_AGAIN}"


def _room(file: str | None) -> str:
    where = f"{file}: no space left on its disk" if file else "no space left on a disk"
    return f"{where}; free some, {_AGAIN}"


def _is_room(error: BaseException) -> bool:
    return _number(error) in _NO_ROOM or bool(_ROOM.search(str(error)))


def _gave_out(error: BaseException) -> bool:
    """Whether an extension failed and did not say why, where memory is limited: asking for some in vain, it may not."""
    said = isinstance(error, SystemError) and re.search("exception set|without setting an exception", str(error))
    return bool(said) and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _is_full(path: Path) -> bool:
    """Whether the disk of a file that is to be written has no room left."""
    try:
        disk = os.statvfs(next(folder for folder in path.absolute().parents if folder.is_dir()))
    except (OSError, AttributeError):  # it is not there any more, or no Unix
        return False
    return disk.f_blocks > 0 and disk.f_bavail == 0


def _number(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _file(error: BaseException) -> str | None:
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return None if name is None else str(name)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, those that it was raised from or during, and those in a group."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [None if each.__suppress_context__ else each.__context__, each.__cause__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
