"""Changes whole models: looks at them, inserts, replaces, undoes; fuses for deployment.

:mod:`~foveate.surgery.trace` watches one forward and :mod:`~foveate.surgery.places` finds what is
where; :mod:`~foveate.surgery.change` puts mechanisms in, and :mod:`~foveate.surgery.recipe` is life
after that.
"""
