"""Every client is held against the same transcripts."""
