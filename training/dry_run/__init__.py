"""Looks at all that a recipe names before a long run begins: files, rows, lengths, shares. No weight is loaded."""

from .reading import ModelSource
from .run import DryRunArguments, dry_run

__all__ = ["DryRunArguments", "ModelSource", "dry_run"]
