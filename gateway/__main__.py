"""`python -m gateway`: the `playhead` command, for where no script is installed."""

from gateway.cli import main

if __name__ == "__main__":
    main()
