"""Conversations: `prompt` and `reply` are plain Python, `settings` and `answer` need MindFormers.

`QwenVL.chat` and `QwenVL.chat_stream` are the door; this is what is behind it.
"""
