"""Many questions, answered in batches: `rows` reads them, `journal` keeps the answers, `run` is in between."""
