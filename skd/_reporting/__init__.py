"""What report() measures, and what it returns."""
