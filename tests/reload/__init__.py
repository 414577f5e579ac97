"""Tests of agent/reload/."""
