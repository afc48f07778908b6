"""Other people's libraries of models: what they need beyond :func:`foveate.insert`.

None of them is a dependency; each module here imports its library when a function is called.
"""
