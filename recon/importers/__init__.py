"""Open a 4D-STEM data set whatever wrote it, or say why it cannot be, with the remedy.

One module per format; each makes ``Frames``, which ``assemble`` streams block by block into the
sparse ``Dataset4D``, so that a file larger than the memory can be read. What a file does not say
about the experiment stands in a YAML beside it (``recon.importers.fields``).
"""

from recon.importers.opening import open_4d

__all__ = ["open_4d"]
