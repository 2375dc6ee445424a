"""Methods of distillation against each other: same teacher, student, data, steps; ``python -m benchmarks.methods``."""
