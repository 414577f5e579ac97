"""Files to readings: blocks, decides nothing."""
