"""A dataset read as training would read it, without MindSpore: what fails, what is cut, how long samples are.

- `checker`: a whole dataset, by several processes; `sample_check`: one sample.
- `boxes`, `fix`: boxes that the model would learn wrongly, and a copy with these corrected.
- `job`: how training would read the dataset, according to its YAML.
- `findings`: the report, as text, as a picture and as JSON Lines.
"""
