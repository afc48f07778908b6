"""Changes whole models: looks at them, inserts, replaces, undoes; fuses for deployment.

:mod:`~foveate.surgery.trace` watches one forward and :mod:`~foveate.surgery.places` finds what is
where; :mod:`~foveate.surgery.change` puts mechanisms in, and :mod:`~foveate.surgery.recipe` is life
after that. :func:`save` and :func:`load` keep the weights of a changed model with its recipe.
"""

from foveate.surgery.recipe import distance as distance
from foveate.surgery.recipe import load as load
from foveate.surgery.recipe import save as save
