"""Fine-tune language models under in-training defences, judge what they say, and report it."""

import sys
from types import TracebackType

from emdefense.errors import INTERRUPTED


def _say_interruptions(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a script still imports, before it can catch anything, is one line, too."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"error: {INTERRUPTED}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _say_interruptions
