"""Pictures from paths, addresses and bytes, under a policy. Pillow and numpy."""
