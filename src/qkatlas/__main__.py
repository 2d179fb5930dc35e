"""`python -m qkatlas`: the command line."""

from qkatlas.jobs.main import main

if __name__ == "__main__":
    main()
