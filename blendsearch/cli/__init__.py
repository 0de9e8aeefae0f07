"""Command line: verbs over the layers below."""
