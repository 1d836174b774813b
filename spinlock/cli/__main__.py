"""`python -m spinlock.cli`."""

from spinlock.cli import main

main()
