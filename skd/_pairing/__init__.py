"""The search for symmetric pairs, and what it finds."""
