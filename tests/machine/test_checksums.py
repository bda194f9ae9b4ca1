"""That Snakemake's checksums are computed once while a file is the same, and anew when it is not."""

import asyncio
import os
from pathlib import Path

from emdefense.checksums import remember_checksums


def test_a_checksum_is_computed_anew_when_the_file_is_another(tmp_path: Path) -> None:
    computed = []

    class File(str):
        async def checksum(self, threshold: int) -> tuple[str, int]:
            computed.append(self)
            return (Path(self).read_text() if Path(self).exists() else "nowhere"), threshold

    remember_checksums(File)
    file = tmp_path / "file"

    def checksum(threshold: int = 9) -> tuple[str, int]:
        return asyncio.run(File(file).checksum(threshold))

    assert [checksum(), checksum()] == [("nowhere", 9)] * 2
    file.write_text("one")
    assert [checksum(), checksum(), checksum(8)] == [("one", 9), ("one", 9), ("one", 8)]
    assert len(computed) == 4
    file.write_text("two")
    os.utime(file, ns=(0, 1))
    assert checksum() == ("two", 9)
