"""The version of blendsearch; the package's metadata is built from it."""

__version__ = "0.2.0.dev0"
