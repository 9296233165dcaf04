"""Text to tokens and back: vocabulary, layout of conversations, answers. Plain Python and numpy."""
