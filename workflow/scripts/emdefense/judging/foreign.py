"""What lies among files that many processes share and is damaged or no file of theirs: named once, and left out."""

import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_named: set[tuple[str, str]] = set()


def name_once(path: Path, what: str, lines: Sequence[int] = ()) -> None:
    """Say on stderr, once a process, that ``path`` or some of its ``lines`` are left out for being ``what``."""
    if (str(path), what) in _named:
        return
    _named.add((str(path), what))
    place = f", line {lines[0]}" if lines else ""
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    print(f"{path}{place}: {what}, left out{more}", file=sys.stderr, flush=True)


def regular_files(folder: Path, suffix: str) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Yield the files of a folder whose name ends so, by name, with size and time; what else is called so is named."""
    for path in sorted(folder.glob(f"*{suffix}")):
        try:
            state = path.stat()
        except OSError as error:
            if path.is_symlink():
                name_once(path, f"not to be read ({error.strerror})")
            continue  # else it has gone meanwhile
        if stat.S_ISREG(state.st_mode):
            yield path, (state.st_size, state.st_mtime_ns)
        else:
            name_once(path, "no file")


def read_bytes(path: Path) -> bytes:
    """Return a file's content; nothing where it has gone or, which is named, cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        name_once(path, f"not to be read ({error.strerror})")
        return b""
