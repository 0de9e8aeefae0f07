"""``python -m blendsearch``."""

from blendsearch.cli import main

main()
