"""What a source becomes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emdefense.sources.rows import Converted

Content = list[Converted] | Path | Callable[[Path], None]


@dataclass(frozen=True)
class Fetched:
    """The files that a source becomes, by the names its config class gives them, and what its record says of rows.

    A file is made of rows, or it is a copy of a file as it lies there; a folder is made of links to the files in it, or
    by a function that is given its path.
    """

    files: Mapping[str, Content]
    rows: Mapping[str, Any] | None = None
