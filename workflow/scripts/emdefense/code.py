"""What a stage's code is: the modules of this package that it imports, directly or not, read from their source."""

import ast
from functools import cache
from hashlib import sha256
from pathlib import Path

import emdefense

PACKAGE = Path(emdefense.__file__).parent
ARMS = PACKAGE / "arms"


@cache  # of the code that a process has imported, whatever becomes of its files; forks inherit it
def code_digest(*modules: str) -> str:
    """Return the SHA-256 of the source of these modules and of all of this package that they import, names included."""
    digest = sha256()
    for path in sorted(modules_imported(*(_file(module) for module in modules))):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def modules_imported(*roots: Path | None) -> set[Path]:
    """Return the files of this package that files import, themselves included if they are part of it.

    Imports inside functions count, those for type checking alone do not. Nor do those of an arm's hooks, except of an
    arm that is itself among the ``roots``: every stage reads its declaration, and few run its hooks.
    """
    found: set[Path] = set()
    given = {path for path in roots if path is not None}
    waiting = set(given)
    while waiting:
        path = waiting.pop()
        if path.is_relative_to(PACKAGE):
            found.add(path)
        in_functions = path in given or not path.is_relative_to(ARMS)
        names = names_imported(path, in_functions=in_functions)
        waiting |= {file for name in names if (file := _file(name))} - found
    return found


def names_imported(path: Path, *, in_functions: bool = True) -> set[str]:
    """Return the dotted names that a file imports, with those of the packages that they lie in.

    ``from a.b import c`` gives ``a``, ``a.b`` and ``a.b.c``, whether or not ``c`` is a module.
    """
    return _names_in(path.read_bytes(), in_functions)


@cache  # a file's own text is the key: what is forked from a process has what that has read
def _names_in(source: bytes, in_functions: bool) -> set[str]:
    names = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.FunctionDef) and not in_functions:
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {".".join(parts[:end]) for parts in (name.split(".") for name in names) for end in range(1, len(parts) + 1)}


def _file(name: str) -> Path | None:
    """Return the file of a module of this package; None for any other name."""
    if name.split(".")[0] != PACKAGE.name:
        return None
    path = PACKAGE.parent / name.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
