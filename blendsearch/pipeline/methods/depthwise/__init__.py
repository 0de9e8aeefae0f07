"""Method ``depthwise``: every layer decomposed after a uniform cut."""
