"""The live page and its JSON API: looks at runs while they are searched, starts and stops searches."""

TOKEN_VARIABLE = "BLENDSEARCH_TOKEN"
"""The environment variable that holds a server's token: for who asks it, and for it to keep from start to start."""

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
"""Names of this machine that no other reaches."""
