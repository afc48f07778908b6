"""The C sources of the CPU kernels, and the shared library they are built into."""
