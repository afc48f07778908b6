"""Objects in images, boxes and masks, from the files that people keep them in."""
