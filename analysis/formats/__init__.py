"""One file for each format of a table."""
