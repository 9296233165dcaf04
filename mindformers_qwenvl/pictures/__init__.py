"""Pictures from paths, addresses and bytes, under a policy. Pillow and numpy.

- `policy`: where they may come from and how large they may be; `sources`: what the text that names one is.
- `opening`: from anything to a Pillow image; `images`: to the pixels that the network sees.
- `fetch`, `connection`, `addresses`: over the web, never from a private network.
"""
