"""`mindformers-qwenvl demo`: a tiny Qwen-VL learns coloured shapes, through MindFormers' own Trainer."""
