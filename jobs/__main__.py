"""`python -m jobs` is `submit`, where no command of that name is installed: on a cluster that was handed our code."""

from jobs.cli import main

main()
