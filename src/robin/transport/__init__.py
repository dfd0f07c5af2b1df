"""The only rooms with sockets, TLS, clock and entropy."""
