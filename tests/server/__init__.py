"""Tests of the server: the socket, connections, limits."""
