"""Requests to responses: the socket and its clients."""
