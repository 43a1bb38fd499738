"""``python -m sim`` is the command `workspan`."""

from sim.cli import main

if __name__ == "__main__":
    main()
