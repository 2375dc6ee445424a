"""What the training loop is made of: batches, checkpoints, the engine, the log."""
