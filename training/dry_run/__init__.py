"""Looks at all that a recipe names before a long run begins: files, rows, lengths, shares. No weight is loaded."""

from .reading import ModelSource
from .run import DryRunArguments, dry_run
from .setok_run import SetokSource, dry_run_setok

__all__ = ["DryRunArguments", "ModelSource", "SetokSource", "dry_run", "dry_run_setok"]
