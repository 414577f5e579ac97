"""An edit to a swap of the index, and its record."""
