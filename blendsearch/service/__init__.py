"""The live page and its JSON API: looks at runs while they are searched, starts and stops searches."""

TOKEN_VARIABLE = "BLENDSEARCH_TOKEN"
"""The environment variable with the token of a server, for clients, and for a server that keeps it across restarts."""

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine that no other reaches."""
