"""Which directories may have changed: by events, and by polling where there are none."""
