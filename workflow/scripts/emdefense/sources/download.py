"""Single files over HTTP."""

import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

from emdefense.errors import InputError
from emdefense.machine_limits import lack

TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20


def download(url: str, folder: Path) -> Path:
    """Return the file at ``url``, saved in ``folder`` under its own name.

    Raises :class:`InputError` if the server is not reached, has no such file, or sends less than it announced.
    """
    target = folder / (Path(urlparse(url).path).name or "download")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, target.open("wb") as out:
            announced = response.headers.get("Content-Length")
            while block := response.read(CHUNK_BYTES):
                out.write(block)
            received = out.tell()
    except urllib.error.HTTPError as error:
        raise InputError(f"{url}: the server answers {error.code} {error.reason}; correct the address") from None
    except (OSError, HTTPException) as error:
        if lack(error):  # of this machine's, not the server's
            raise
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{url}: not reached ({reason}); run `snakemake fetch` where there is a network, or set the source's "
            "'path' to a local copy"
        ) from None
    if announced is not None and received != int(announced):
        raise InputError(f"{url}: the download broke off after {received} of {announced} bytes; run it again")
    return target
