"""``python -m leakaudit``: the command line without an installed script."""

from leakaudit.cli import main

if __name__ == "__main__":
    main()
