"""What compress() is made of: channel groups, widths, bases, weights, sizes."""
