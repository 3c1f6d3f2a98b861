"""Two results side by side: how far they show the same, and where they differ."""

from recon.compare.comparing import Comparison, compare, compare_files

__all__ = ["Comparison", "compare", "compare_files"]
