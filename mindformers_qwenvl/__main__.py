"""`python -m mindformers_qwenvl` is the command `mindformers-qwenvl`."""

from mindformers_qwenvl.cli import main

raise SystemExit(main())
