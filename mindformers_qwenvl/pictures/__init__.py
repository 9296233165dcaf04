"""Pictures from paths, addresses and bytes, under a policy. Pillow and numpy.

- `policy`: where they may come from and how large they may be; `sources`: recognises web and `data:` addresses.
- `opening`: from any source to a Pillow image; `images`: from there to the pixels that the network sees.
- `fetch`, `connection`, `addresses`: over the web, never from a private network.
"""
