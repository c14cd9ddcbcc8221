"""`python -m liteflow`: the same as the command `liteflow`."""

from liteflow.cli import main

if __name__ == "__main__":
    main()
