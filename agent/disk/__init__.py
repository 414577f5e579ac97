"""Reads directories and watches them. It blocks, and decides nothing."""
