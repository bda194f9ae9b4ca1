"""The Hugging Face hub: whole repositories at one revision, and the rows of data sets."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl
from emdefense.text_files import opened

if TYPE_CHECKING:
    from datasets import Dataset

LARGE_FILE = re.compile("[0-9a-f]{64}")
PAGES = {"dataset": "datasets/", "model": ""}


def snapshot(
    repository: str, revision: str | None, kind: Literal["dataset", "model"], patterns: list[str] | None = None
) -> Path:
    """Return the folder of a repository in the hub's cache, fetched if need be; its name is the commit's hash.

    The token comes from the environment (HF_TOKEN) or from the hub's own login. Raises :class:`InputError` that says
    what to do where access is missing, the hub is not reached, there is no such revision, or a file arrives damaged.
    """
    # Here, so that sources at local paths do without the import.
    import httpx2
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub import errors as hub

    where = f"{repository}@{revision}" if revision else repository
    page = f"{constants.ENDPOINT}/{PAGES[kind]}{repository}"
    try:
        return Path(snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=patterns))
    except hub.GatedRepoError:
        raise InputError(f"{where}: access is gated; accept its conditions on {page}{_token_hint()}") from None
    except hub.RevisionNotFoundError:
        raise InputError(f"{where}: there is no such revision; take a commit hash from {page}/commits/main") from None
    except (hub.RepositoryNotFoundError, hub.HFValidationError):
        raise InputError(f"{where}: the hub has no such {kind}, or hides it; check {page}{_token_hint()}") from None
    except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, httpx2.ConnectError, httpx2.TimeoutException):
        raise InputError(
            f"{where}: {constants.ENDPOINT} is not reached; run `snakemake fetch` where there is a network, without "
            "HF_HUB_OFFLINE, or set the source's 'path' to a local copy"
        ) from None
    except hub.HfHubHTTPError as error:
        raise InputError(f"{where}: {page} answers {error.response.status_code}; try again later") from None
    except (httpx2.TransportError, OSError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{where}: the download broke off ({said}); run it again, it goes on where it was") from None


def check_stored(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise :class:`InputError` if a large file of a snapshot is not what the hub says it is.

    The cache names a large file by the SHA-256 that the hub gives for it, and the client compares sizes only.
    """
    for name, digest in digests.items():
        stored = (folder / name).resolve()
        if LARGE_FILE.fullmatch(stored.name) and stored.name != digest:
            raise InputError(f"{folder / name}: damaged, its SHA-256 is {digest}; remove {stored} and run it again")


def _token_hint() -> str:
    if os.environ.get("HF_TOKEN"):
        return ", with the account that HF_TOKEN belongs to"
    return ", and put an access token of that account into the environment variable HF_TOKEN"


@dataclass(frozen=True)
class Table:
    """Rows that all have the same columns; None where a row of the file has not."""

    column_names: list[str]
    rows: list[dict[str, Any]]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def dataset_rows(raw: Path, config: str, split: str) -> "Dataset | Table":
    """Return a split of a data set: of a folder laid out as on the hub, or a single Parquet, JSON Lines or JSON file.

    Raises :class:`InputError` if there is no such configuration or split, or the file is damaged.
    """
    if raw.is_file() and raw.suffix != ".parquet":
        return _json_rows(raw)
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)  # what is wrong is said below
    where = f"{raw}, {config}, {split}"
    try:
        # In memory and with a cache of its own: another file of the same name and size must not be taken for this one.
        with TemporaryDirectory() as cache:
            if raw.is_dir():
                return datasets.load_dataset(str(raw), config, split=split, cache_dir=cache, keep_in_memory=True)
            files = {split: str(raw)}
            return datasets.load_dataset("parquet", data_files=files, split=split, cache_dir=cache, keep_in_memory=True)
    except (ValueError, TypeError, LookupError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        said = " ".join(str(cause).split())
        raise InputError(f"{where}: cannot be read ({said}); fetch it again, or name another file or folder") from None


def _json_rows(raw: Path) -> Table:
    """Return the rows of JSON Lines, or of a JSON array of objects."""
    with opened(raw) as content:
        is_array = content.read(1 << 16).lstrip().startswith(b"[")
    rows = read_json(raw) if is_array else read_jsonl(raw)
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{raw}: expected a list of JSON objects")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return Table(columns, [{column: row.get(column) for column in columns} for row in rows])
