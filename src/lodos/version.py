"""The one place the version number is written; the package metadata is read from here."""

__version__ = "0.1.0"
