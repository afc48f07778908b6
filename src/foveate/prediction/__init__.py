"""What a trained model says of images: labels, masks or boxes as files, and a page to look at.

:func:`foveate.predict` reads the images as training did and writes what the model finds in them.
"""
