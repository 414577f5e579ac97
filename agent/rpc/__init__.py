"""Bytes to requests, results to bytes: JSON-RPC 2.0 without I/O."""
