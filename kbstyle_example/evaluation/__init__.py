"""Measuring systems on pictures that none was trained on, and showing what was found: tables, sheets, cards."""
