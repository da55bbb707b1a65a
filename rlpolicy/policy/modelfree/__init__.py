"""Model-free algorithms; a file is an algorithm."""
