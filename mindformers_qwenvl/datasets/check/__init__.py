"""A dataset read as training would read it, without MindSpore: what fails, what is cut, how long samples are."""
