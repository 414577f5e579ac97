"""Long runs, and attacks. `python tests NAME` runs one; the suite runs short forms of them."""
