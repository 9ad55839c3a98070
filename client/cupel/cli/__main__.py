"""`python -m cupel.cli`, the same as `cupel`."""

from cupel.cli import main

main()
