"""Networks of others, and plain ones: are their pairs found, do their students learn, deploy without skd?

``python -m benchmarks.zoo`` prints the table; `entries` has the networks, `pairings` the pairs as a person draws them.
"""
