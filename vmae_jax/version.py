"""The version of the package, in one place for all who name it."""

__all__ = ["VERSION"]

VERSION = "0.1.0"
