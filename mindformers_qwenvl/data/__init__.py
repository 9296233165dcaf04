"""What a YAML names: tokenizer, processor, transforms. For training, MindFormers' stock dataset drives all of it.

How an image gets from the JSON to the vision tower:

1. `datasets.annotations` reads a record: (role, text) turns, with `<img>path</img>` in the texts.
2. `datasets.loader` hands it to the stock `ModalToTextSFTDataset` as one JSON text, the column `conversations`. That
   column is all that reaches a transform, so it also carries what messages and paths need (file, number, id, folder of
   the pictures), as a first turn with the role `__sample__`: `annotations.encode_sample` writes it, `split_note` reads
   it. The note may have the ticket of a sample that the loader's thread has prepared ahead (`datasets.ahead`).
3. The stock `BaseXModalToTextTransform` calls `template`, which calls `sample`: `text.layout` makes tokens, with slots
   in place of each path, and collects the paths; `pictures.images` opens them if `pictures.policy` allows it.
4. `images` uint8 and `image_context_pos` are the resulting columns; `normalise` turns a batch of images into floats.
5. `model.qwenvl` runs the tower and puts its vectors at `image_context_pos`.

In prediction steps 1 to 4 are `generation.prompt` and `text.columns`, called by `processor` and by `chat`.

- `template`, `sample`, `normalise`: the transforms.
- `processor`, `image_processor`: what prediction takes.
- `tokenizer`, `tokenizer_files`: the vocabulary as a MindFormers tokenizer, from a folder and into one.
- `model_folder`: settings of processor and tokenizer from the files of a model's folder.
"""
