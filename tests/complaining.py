"""What a process may do wrong; imports nothing slow, because fresh processes import it."""

from emdefense.errors import InputError
from emdefense.training.parallel import Processes


def complain(processes: Processes) -> None:
    """Find something wrong in the last process, for which all others wait in vain."""
    if processes.rank == processes.count - 1:
        raise InputError("key 'x': wrong")
    processes.wait()
