"""A cache as one file: each reply once, sorted by key, so that equal caches make equal archives."""

import gzip
import shutil
import zlib
from pathlib import Path

from emdefense.errors import InputError
from emdefense.files import written_whole
from emdefense.judging.cache import read_line
from emdefense.judging.foreign import name_once, regular_files


def export_cache(cache: Path, archive: Path) -> int:
    """Write all replies of a cache into an archive; return how many.

    Raises :class:`InputError` if there are none. Where each lies is held in memory, about 0.2 kB a reply.
    """
    where: dict[bytes, tuple[Path, int]] = {}
    for shard, _ in regular_files(cache, ".jsonl"):
        offset, wrong = 0, []
        with shard.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                found = read_line(line)
                if found is not None:
                    where.setdefault(found[0], (shard, offset))
                elif line.strip():
                    wrong.append(number)
                offset += len(line)
        if wrong:
            name_once(shard, "no reply of a judge", wrong)
    if not where:
        raise InputError(f"{cache}: no replies; name the folder of the key 'judge_cache'")
    opened = {shard: shard.open("rb") for shard in {shard for shard, _ in where.values()}}
    try:
        with written_whole(archive) as path, path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as out:
            for key in sorted(where):
                shard, offset = where[key]
                opened[shard].seek(offset)
                out.write(opened[shard].readline())
    finally:
        for file in opened.values():
            file.close()
    return len(where)


def import_cache(cache: Path, archive: Path) -> int:
    """Put an archive into a cache as a shard of its own; return how many replies it holds.

    Raises :class:`InputError` if it is no whole archive. One that is there already is written over by itself.
    """
    shard = cache / f"{archive.name.removesuffix('.gz').removesuffix('.jsonl')}.imported.jsonl"
    try:
        with written_whole(shard) as path:
            with gzip.open(archive) as packed, path.open("wb") as out:
                shutil.copyfileobj(packed, out)
            with path.open("rb") as lines:
                replies = [read_line(line) is not None for line in lines]
            if not replies or not all(replies):
                raise InputError(f"{archive}: not an archive of replies; make one with `judge_cache.py export`")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{archive}: cannot be unpacked ({error})") from None
    return len(replies)
