"""Other people's libraries of models: what they need beyond :func:`foveate.insert`.

But for timm, none of them is a dependency; their modules here import the library when a function
is called.
"""
