"""Conversations and boxes of other projects to Qwen-VL's JSON. Plain Python, record by record."""
