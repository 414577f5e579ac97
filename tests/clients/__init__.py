"""Every client is compared with the same transcripts."""
