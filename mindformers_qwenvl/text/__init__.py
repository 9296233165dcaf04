"""Text to tokens and back. Plain Python and numpy; nothing here needs MindSpore, MindFormers or Pillow.

- `vocabulary`, `vocabulary_file`: text to ids and ids to text, special ids; `limits`: the bounds of a text.
- `tags`: the image and grounding tags, found in texts and written.
- `list_format`: `[{"image": ...}, {"text": ...}]` to text and back.
- `slot_paths`: the path of a picture in its own slots.
- `rows`: the types, `Encoded` for a piece and `Row` for a whole row.
- `layout`: conversations to rows (ChatML, labels).
- `columns`: rows to the arrays of a batch.
- `stream`: generated ids to text as they come: whole characters, stop strings.
- `reply`: generated ids to the text of an answer.
"""
