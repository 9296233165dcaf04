"""A dataset read as training would, without MindSpore: what would fail, what would be cut, how long samples are."""
