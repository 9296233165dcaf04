"""Conversations and boxes of other projects, converted to Qwen-VL's JSON. Plain Python, record by record."""
