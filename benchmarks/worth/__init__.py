"""What widths from spectra and projected weights are worth: ``python -m benchmarks.worth --help``."""
