"""``rlgen`` and ``python -m rlgen``: the command line."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line; Ctrl-C ends it quietly also before a command answers for it."""
    # Another handler is left alone: a shell has the jobs in its background ignore Ctrl-C.
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:  # an exception would be lost in some imports
        signal.signal(signal.SIGINT, _stop)
    from rlgen import cli

    try:
        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
    except KeyboardInterrupt:
        _stop()


def _stop(number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    os.write(2, b"rlgen: stopped\n")
    os._exit(130)  # as a shell says of Ctrl-C


if __name__ == "__main__":
    main()
