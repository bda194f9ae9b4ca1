"""The folder to share: adapters and a data set for a hub, written whole, and only if nothing private stands in it."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emdefense.cells import Cell
from emdefense.errors import InputError
from emdefense.files import check_replaceable, folder_written_whole, read_json, write_json, write_text
from emdefense.finished import Finished
from emdefense.sharing.bases import Base, bases
from emdefense.sharing.cards import adapter_card, adapters_card, data_card
from emdefense.sharing.config import Check, checked_values, write_config
from emdefense.sharing.private import Found, Private
from emdefense.sharing.rows import Cleaned, frames

ADAPTERS, DATASET, CARD = "adapters", "dataset", "README.md"
WEIGHTS = {".safetensors", ".bin"}
PICTURES = {".png", ".pdf"}
BESIDE = ("tables", "figures")
SHOWN = 40  # characters of what was found
HEADER = 1 << 20  # bytes of weights and pictures that are read for texts


@dataclass(frozen=True)
class Shared:
    """What was written: the folder, how many adapters, how many rows of what, and what was written otherwise."""

    folder: Path
    adapters: int
    sizes: Mapping[str, int]
    changed: tuple[str, ...]


def write_share(
    study: Finished, out: Path, private: Private, *, named: Mapping[str, str] | None = None, license: str = "other"
) -> Shared:
    """Write adapters and data set of a study below ``out``, whole or not at all, in the place of an earlier one.

    ``named`` has the hub's names of base models. Weights are linked where the file system can, so that they take no
    room twice. Raises :class:`InputError` naming file and place if something private stands in what the study wrote.
    """
    check_replaceable(out, (ADAPTERS, DATASET), "what was shared")
    found, writer = bases(study, named or {}), _Writer(private)
    cells = adapter_cells(study)
    with folder_written_whole(out) as folder:
        if cells:
            _write_adapters(study, cells, found, license, folder / ADAPTERS, writer)
        sizes = _write_data(study, license, folder / DATASET, writer)
        writer.check_all(folder)
    return Shared(out, len(cells), sizes, tuple(writer.changed))


def adapter_cells(study: Finished) -> list[Cell]:
    """Return the cells that have an adapter, those included that are in no grid but whose adapter an arm changes."""
    grid = study.grid
    return list(dict.fromkeys([*grid.trained, *(cell for cell in grid.cells if grid.arm(cell).is_trained)]))


class _Writer:
    """Checks texts before others get them, and keeps what it wrote otherwise."""

    def __init__(self, private: Private):
        self.private, self.changed = private, list[str]()

    def text(self, text: str, where: str) -> str:
        """Return a text of the study's own as others may read it; :class:`InputError` names what is private there."""
        written = self.private.written(text)
        if written != text:
            self.changed.append(f"{where.partition(',')[0]}: written as you said, or from the working directory on")
        if found := self.private.in_own(written):
            raise _refusal(where, found)
        return written

    def within(self, file: str) -> Check:
        """Return :meth:`text` for the texts of a file, by their places in it."""
        return lambda text, place: self.text(text, f"{file}, {place}")

    def lines(self, text: str, file: str) -> str:
        """Return a text checked line by line."""
        check = self.within(file)
        return "".join(check(line, f"line {n}") for n, line in enumerate(text.splitlines(keepends=True), start=1))

    def file(self, source: Path, target: Path, where: str) -> None:
        """Copy a file: a text checked line by line, anything else as it is."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in WEIGHTS | PICTURES:
            _link(source, target)
            return
        target.write_text(self.lines(source.read_text(encoding="utf-8"), where), encoding="utf-8")

    def check_all(self, folder: Path) -> None:
        """Look at every file that is not checked yet: what stands at the start of weights and in pictures."""
        for path in sorted(path for path in folder.rglob("*") if path.suffix in WEIGHTS | PICTURES):
            with path.open("rb") as content:
                start = content.read(HEADER)
            where = str(path.relative_to(folder))
            text = _header(start) if path.suffix == ".safetensors" else start.decode("latin-1")
            # By chance, bytes of pictures read as a short name; as a path or a key they do not.
            found = self.private.in_own(text) if path.suffix == ".safetensors" else self.private.in_data(text)
            if found:
                raise _refusal(where, found)


def _write_adapters(
    study: Finished, cells: list[Cell], found: Mapping[str, Base], license: str, out: Path, writer: _Writer
) -> None:
    for cell in cells:
        source, target = Path(study.layout.adapter(cell)), out / cell.folder
        config = source / "adapter_config.json"
        if not config.is_file():
            raise InputError(f"{source}: there is no adapter in it; run the study to its end first")
        base = found[cell.model]
        for path in _files(source):
            if path != config:
                writer.file(path, target / path.name, f"{ADAPTERS}/{cell.folder}/{path.name}")
        values = {**read_json(config), "base_model_name_or_path": base.name, "revision": base.revision}
        check = writer.within(f"{ADAPTERS}/{cell.folder}/{config.name}")
        write_json(target / config.name, checked_values(values, check))
        _write_card(target, adapter_card(study, cell, base, license), f"{ADAPTERS}/{cell.folder}", writer)
    for base in {found[cell.model] for cell in cells}:
        writer.changed.append(
            f"base_model_name_or_path: {base.name} in the adapters' configs"
            f"{', a copy of the model beside them' if base.copied else ''}"
        )
        for path in _files(base.copied) if base.copied else ():
            writer.file(path, out / base.name / path.name, f"{ADAPTERS}/{base.name}/{path.name}")
    _write_card(out, adapters_card(study, cells, found, license), ADAPTERS, writer)


def _write_data(study: Finished, license: str, out: Path, writer: _Writer) -> dict[str, int]:
    cleaned, sizes = Cleaned(writer.private), dict[str, int]()
    for kind, name, frame in frames(study, cleaned):
        path = out / "data" / kind / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
        sizes[kind] = sizes.get(kind, 0) + frame.height
    removed = cleaned.in_words()
    writer.changed += removed
    out.mkdir(parents=True, exist_ok=True)
    write_config(study, out / "study.yaml", writer.within(f"{DATASET}/study.yaml"))
    for name in study.study.arms_from:
        writer.file(Path(name), out / Path(name).name, f"{DATASET}/{Path(name).name}")
    claims = [path for ending in ("md", "json") if (path := study.folder / f"claims.{ending}").is_file()]
    for path in [*(path for name in BESIDE for path in _files(study.folder / name)), *claims]:
        below = path.relative_to(study.folder)
        writer.file(path, out / below, f"{DATASET}/{below}")
    _write_card(out, data_card(study, sizes, license, removed), DATASET, writer)
    return sizes


def _files(folder: Path) -> list[Path]:
    """Return the files of a folder, hidden ones left out: Snakemake's own marks are some."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _write_card(folder: Path, text: str, where: str, writer: _Writer) -> None:
    write_text(folder / CARD, writer.lines(text.lstrip(), f"{where}/{CARD}"))


def _refusal(where: str, found: list[Found]) -> InputError:
    first = found[0]
    shown = "" if first.what == "key" else f" ({first.text[:SHOWN]}{'…' if len(first.text) > SHOWN else ''})"
    more = f", and {len(found) - 1} more there" if len(found) > 1 else ""
    way_out = (
        "take it out where it comes from"
        if first.what == "key"
        else "write it otherwise with --replace OLD=NEW, or say with --allow TEXT that others may read it"
    )
    return InputError(f"{where}: a {first.what}{shown}{more}; nothing was written; {way_out}")


def _link(source: Path, target: Path) -> None:
    """Give a large file a second name, or copy it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _header(start: bytes) -> str:
    """Return the texts at the start of a safetensors file: the names of its tensors and what is said of it."""
    length = int.from_bytes(start[:8], "little")
    return start[8 : 8 + length].decode("utf-8", "replace")
