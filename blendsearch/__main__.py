"""``python -m blendsearch``."""

from blendsearch.cli.main import main

main()
