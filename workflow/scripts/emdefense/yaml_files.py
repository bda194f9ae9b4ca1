"""Reads YAML that a user wrote."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from emdefense.errors import InputError
from emdefense.text_files import MAX_DEPTH, TOO_DEEP, check_text, problem_in_words, read_text

TOO_SMALL = "too small a number to be told from 0; write 0, or a larger one"
MAX_VALUES = 1_000_000  # of a document whose aliases are written out


def read_yaml(path: Path, what: str = "file") -> Any:
    """Return the value in ``path``; :class:`InputError` says that there is no such ``what``, or that it is no YAML.

    It also names the line of a key that stands twice in a mapping, of which others take one without a word, of a tag,
    of a value that cannot be (a 45th of May), and of half a surrogate pair.
    """
    text = read_text(path, what)
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        problem = TOO_DEEP
    except yaml.MarkedYAMLError as error:
        problem = _in_words(error)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"line {line}: the character U+{error.character:04X} may not stand in YAML; remove it"
    raise InputError(f"{path}: not valid YAML ({problem})")


def vanishes(text: str) -> bool:
    """Whether a text is a number that is not 0, and becomes 0 when it is read."""
    number = _SMALL.fullmatch(text.strip())
    return number is not None and bool(re.search("[1-9]", number[1])) and float(number[0].replace("_", "")) == 0


_SMALL = re.compile(r"[-+]?([0-9_]*\.?[0-9_]*)[eE]-[0-9][0-9_]*")


class _Loader(yaml.SafeLoader):
    """Plain values only, and each of them once and possible."""

    def get_single_node(self) -> Node | None:
        """Return the document as nodes, once they are known to be sound."""
        root: Node | None = super().get_single_node()
        if root is not None:
            _check(root)
        return root

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Return a node's value; an error that the value itself brings names the line."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(node, ScalarNode):
                check_text(value)
                if isinstance(value, float) and vanishes(node.value):
                    raise ValueError(TOO_SMALL)
        except (ValueError, OverflowError) as error:
            shown = f"{node.value[:60]}: " if isinstance(node, ScalarNode) else ""
            raise _wrong(node, f"{shown}{problem_in_words(ValueError(str(error)))}") from None
        except (LookupError, AttributeError, TypeError):  # a tag of YAML's own before what is no such value
            raise _wrong(
                node, f"the value is no {node.tag.rpartition(':')[2]}; correct it, or remove the tag"
            ) from None
        return value


def _in_words(error: yaml.MarkedYAMLError) -> str:
    """Return an error of the parser on one line, the place first."""
    mark = error.problem_mark or error.context_mark
    said = " ".join(f"{error.context or ''} {error.problem or ''}".split())
    return said if mark is None else f"line {mark.line + 1}: {said}"


def _wrong(node: Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _check(root: Node) -> None:
    """Raise for a document with a key that stands twice, that holds itself, is too deep, or unfolds to too much."""
    sizes: dict[int, int] = {}  # with aliases written out, of the nodes that are done
    path = [(root, _inner(root))]
    above = {id(root)}
    while path:
        node, rest = path[-1]
        inner = next(rest, None)
        if inner is None:
            path.pop()
            above.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(part)] for part in _inner(node))
            if sizes[id(node)] > MAX_VALUES:
                raise _wrong(node, f"more than {MAX_VALUES} values once its aliases are written out; write fewer")
        elif id(inner) in above:
            raise _wrong(inner, "it holds an alias of itself; write the value")
        elif id(inner) not in sizes:
            if len(path) > MAX_DEPTH:
                raise _wrong(inner, TOO_DEEP)
            path.append((inner, _inner(inner)))
            above.add(id(inner))


def _inner(node: Node) -> Iterator[Node]:
    """Yield the nodes in a node; raises for a key that stands twice. What is merged in (``<<``) may be overridden."""
    seen: set[tuple[str, str]] = set()
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _wrong(key, f"the key '{key.value[:60]}' stands twice in one mapping; remove one")
                seen.add((key.tag, key.value))
            yield from (key, value)
    elif isinstance(node, SequenceNode):
        yield from node.value
