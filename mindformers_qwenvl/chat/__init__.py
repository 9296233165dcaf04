"""Conversations and files of questions, answered by a network. `QwenVL.chat` and `QwenVL.chat_stream` lead here.

- `answer`: answers of a network: whole, as a stream, one or a batch; `ground`: the box of what a text describes.
- `likelihood`: how likely a network finds given texts after a prompt.
- `steps`, `vectors`: one step of a network at a time, for a server; the vectors of pictures, kept.
- `questions`: reading a file of questions.
- `batches`: answering them in batches.
- `journal`: the file of their answers, which survives being killed.
- `remote`, `remote_chat`: a client of servers with OpenAI's interface, and a conversation through it.
"""
