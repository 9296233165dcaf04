"""Files of weights, read lazily."""
