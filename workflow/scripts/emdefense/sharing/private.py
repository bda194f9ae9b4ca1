"""What must not leave a machine: keys, names of people, and paths and addresses of the machine's own.

Two kinds of text are looked at. What a study wrote of itself (its config, tables, figures, cards) is refused where
something of the kind stands in it. What was asked and answered is data: models make up keys, people and paths, and
nobody's name is taken for the user's there; a key, a person's home folder and this machine's paths are taken out.
"""

import getpass
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emdefense.errors import KEYS

SHORTEST = 8  # characters of a value of the environment that is taken for a secret
LEAST_NAME = 3  # characters of a user's or machine's name that is looked for
REMOVED = "[removed: {what}]"
# Names of nobody: what images, services and documentation use.
GENERIC = {
    *("root", "user", "username", "users", "you", "yourname", "your-username", "name", "me", "admin", "administrator"),
    *("ubuntu", "debian", "centos", "ec2-user", "runner", "runneradmin", "jovyan", "vscode", "docker", "app", "node"),
    *("guest", "test", "default", "public", "shared", "localhost", "www-data", "nobody", "git", "dev", "deploy"),
}
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)", re.IGNORECASE)
_KEYS = (
    *KEYS,
    re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b"),  # Amazon's
    re.compile(r"\bAIza[0-9A-Za-z_-]{35}"),  # Google's
    re.compile(r"\bxox[abeprs]-[0-9A-Za-z-]{10,}"),  # Slack's
    re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),  # a JSON web token
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?-----END [A-Z ]*PRIVATE KEY-----)?", re.DOTALL),
    re.compile(r"(?<=://)[^/\s:@\"']+:[^/\s@\"']+(?=@)"),  # user:password in an address
    re.compile(r"\b[Bb]earer [\w.~+/-]{20,}=*"),
)
_HOME = re.compile(r"(?<![\w.])(?:/home/|/Users/|[A-Za-z]:\\+Users\\+)([A-Za-z0-9][\w.-]*)")
_ROOTS = (
    *("root", "mnt", "media", "scratch", "data", "work", "workspace", "tmp", "var", "opt", "srv"),
    *("nfs", "lustre", "gpfs", "private", "Volumes", "cluster", "project", "projects", "storage", "fs", "usr", "etc"),
)
_PATH = re.compile(
    rf"(?<![\w.:/<~}}-])/(?:{'|'.join(_ROOTS)})(?:/[\w.+@-]+)+|"
    r"(?<!\w)[A-Za-z]:\\+(?!Users\\)[\w.-]+\\+[\w\\.-]+"  # those of users are home folders
)
_EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}\b")
_ADDRESS = re.compile(r"(?<=://)(?:[^/\s@\"']*@)?([^/\s:\"'`)\]]+)")
_NETWORK = re.compile(
    r"^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.)|\.(local|lan|internal|intranet|corp|cluster|home)$", re.IGNORECASE
)


@dataclass(frozen=True)
class Found:
    """Something private in a text: what it is, where it starts, and the text itself."""

    what: str
    start: int
    text: str


@dataclass(frozen=True)
class Private:
    """What is private on this machine, and what the user says is not (``allowed``), or is to be called otherwise.

    ``replaced`` has the new texts by the old ones, which are put in first, everywhere.
    """

    home: str = ""
    here: str = ""
    user: str = ""
    host: str = ""
    secrets: tuple[str, ...] = ()
    allowed: frozenset[str] = frozenset()
    replaced: Mapping[str, str] = field(default_factory=dict)

    def written(self, text: str) -> str:
        """Return a text of the study's own with what is safe to write otherwise, for others to read.

        That is what the user says, and paths below the working directory, which become relative.
        """
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        return re.sub(rf"{re.escape(self.here)}/(?=[\w.])", "", text) if len(self.here) > 1 else text

    def in_own(self, text: str) -> list[Found]:
        """Return everything private in a text that the study wrote of itself, in its order."""
        found = [*self._keys(text), *self._own_paths(text)]
        found += [Found("home folder", match.start(), match[0]) for match in _HOME.finditer(text)]
        found += [Found("machine's path", match.start(), match[0]) for match in _PATH.finditer(text)]
        found += [Found("e-mail address", match.start(), match[0]) for match in _EMAIL.finditer(text)]
        found += [
            Found("address in your network", match.start(1), match[1])
            for match in _ADDRESS.finditer(text)
            if self._is_inside(match[1])
        ]
        for what, name in (("user's name", self.user), ("machine's name", self.host)):
            if _names_somebody(name):
                whole = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")
                found += [Found(what, match.start(), match[0]) for match in whole.finditer(text)]
        return self._kept(found)

    def in_data(self, text: str) -> list[Found]:
        """Return what is private in a text that was asked or answered: keys, home folders, this machine's paths."""
        homes = (m for m in _HOME.finditer(text) if m[1].lower() not in GENERIC)
        found = [*self._keys(text), *self._own_paths(text)]
        found += [Found("home folder", match.start(), match[0]) for match in homes]
        return self._kept(found)

    def without(self, text: str) -> tuple[str, list[Found]]:
        """Return a text of the data without what is private in it, and what that was."""
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        found, end, parts = self.in_data(text), 0, []
        for one in found:
            parts += [text[end : one.start], REMOVED.format(what=one.what)]
            end = one.start + len(one.text)
        return "".join([*parts, text[end:]]), found

    def _keys(self, text: str) -> list[Found]:
        found = [Found("key", match.start(), match[0]) for pattern in _KEYS for match in pattern.finditer(text)]
        for secret in self.secrets:
            found += [Found("key", start, secret) for start in _places(text, secret)]
        return found

    def _own_paths(self, text: str) -> list[Found]:
        return [
            Found("machine's path", start, path)
            for path in {self.home, self.here}
            if path.count("/") > 1 or path.count("\\") > 1
            for start in _places(text, path)
        ]

    def _is_inside(self, host: str) -> bool:
        alone = "." not in host and host.lower() != "localhost" and re.fullmatch(r"[\w-]+", host) is not None
        return alone or _NETWORK.search(host) is not None

    def _kept(self, found: Iterable[Found]) -> list[Found]:
        """Return what is not allowed, in its order; of what overlaps, what starts first, and of that the longest."""
        kept: list[Found] = []
        for one in sorted(found, key=lambda one: (one.start, -len(one.text))):
            overlaps = bool(kept) and one.start < kept[-1].start + len(kept[-1].text)
            if one.text not in self.allowed and not overlaps:
                kept.append(one)
        return kept


def this_machine(
    allowed: Sequence[str] = (),
    replaced: Mapping[str, str] | None = None,
    environment: Mapping[str, str] = os.environ,
    user: Callable[[], str] = getpass.getuser,
) -> Private:
    """Return what is private here: the user, the home folder, the machine's name, keys in the environment."""
    try:
        name = user()
    except (OSError, KeyError):  # a container's user may have no name
        name = ""
    secrets = [value for key, value in environment.items() if _SECRET_NAME.search(key) and _is_secret(value)]
    return Private(
        home=str(Path.home()),
        here=str(Path.cwd()),
        user=name,
        host=socket.gethostname().partition(".")[0],
        secrets=tuple(dict.fromkeys(secrets)),
        allowed=frozenset(allowed),
        replaced=dict(replaced or {}),
    )


def _is_secret(value: str) -> bool:
    """Whether a value of the environment may be a key: not a path to one, and neither a number nor a word."""
    return len(value) >= SHORTEST and "/" not in value and any(map(str.isdigit, value)) and not value.isdigit()


def _names_somebody(name: str) -> bool:
    return len(name) >= LEAST_NAME and name.lower() not in GENERIC


def _places(text: str, part: str) -> list[int]:
    return [match.start() for match in re.finditer(re.escape(part), text)]
