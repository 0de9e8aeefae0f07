"""The networks that come with blendsearch, and the one door through which any network is built."""
