"""Fine-tune language models under in-training defences, judge what they say, and report it."""

import sys
from types import TracebackType

INTERRUPTED = "interrupted; run it again to go on, what is finished is kept"


def _say_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C, and want of memory, while a script still imports, before it can catch anything, are one line, too."""
    if issubclass(kind, KeyboardInterrupt):
        said: str | None = INTERRUPTED
    else:
        from emdefense.machine_limits import lack  # here, for who hands over a job imports this package and no more

        said = lack(error)
    if said is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {said}", file=sys.stderr)


if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _say_in_one_line
