"""The version, which any file may know."""

__version__ = "0.1.0"
