"""Models in files that say what they are: how they are built, read images, and what they call them.

:class:`~foveate.saved.info.ModelInfo` is what a file says beside its weights, and
:func:`foveate.load` builds the model again from nothing else.
"""
