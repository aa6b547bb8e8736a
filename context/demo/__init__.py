"""The demo bundle that travels with the package: a small network some of whose features are planted."""
