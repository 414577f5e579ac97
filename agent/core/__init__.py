"""What a callback means: pure functions and frozen values."""
