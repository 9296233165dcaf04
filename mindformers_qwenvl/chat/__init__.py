"""Conversations and files of questions, answered by a network. `QwenVL.chat` and `QwenVL.chat_stream` lead here.

- `answer`: answers of a network: whole, as a stream, one or a batch.
- `questions`: reading a file of questions.
- `batches`: answering them in batches.
- `journal`: the file of their answers, which survives being killed.
"""
