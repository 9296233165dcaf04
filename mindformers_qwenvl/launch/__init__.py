"""`mindformers-qwenvl run`: what run_mindformer.py does; MindFormers' wheel does not contain that script.

`options` are the script's options and where each goes in a YAML; `job` makes the script's calls of the stock Trainer;
`quiet` sends the host's output to a file; `progress` is the bar; `cause` finds what an error is about.
"""
