"""Run the command line as `python -m kpnet.cli`."""

from kpnet.cli.entry import main

if __name__ == "__main__":
    main()
