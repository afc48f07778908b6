"""Image data: where images come from, how they are read, and how batches are made of them."""
