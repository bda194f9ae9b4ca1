"""Where a model lies: in a folder of its own, or in the Hugging Face cache. Nothing is ever fetched."""

import re
from pathlib import Path

from emdefense.errors import InputError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def model_folder(name: str | Path) -> Path:
    """Return the folder of a model named by its path, or as ``org/name`` or ``org/name@revision`` in the cache.

    A revision is a branch, a tag or a whole commit hash; without one, ``main`` as it was when it was fetched. A folder
    of that name comes first; a path that is neither is returned as it is, for its reader to say what is missing there.
    Raises :class:`InputError` if the cache has no such model.
    """
    if Path(name).is_dir() or not HUB_NAME.fullmatch(str(name)):
        return Path(name)
    # Here, so that a study of local models does without the import.
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    repository, _, revision = str(name).partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except IncompleteSnapshotError as error:  # perhaps all that is needed: whoever reads a file says if it is missing
        return Path(error.snapshot_path)
    except (LocalEntryNotFoundError, HFValidationError):
        fetch = f"hf download {repository}" + (f" --revision {revision}" if revision else "")
        raise InputError(
            f"{name}: neither a folder nor a model in {constants.HF_HUB_CACHE}; correct it, or run `{fetch}`"
        ) from None
