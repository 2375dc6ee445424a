"""Which weights of the loss and which shape of the network do what: ``python -m benchmarks.ablations --help``."""
