"""``python -m rlgen``: the command line."""

from rlgen.cli import main

if __name__ == "__main__":
    main()
