"""``python -m eval.cli``: the command ``mast``, where a program such as torchrun wants a module."""

import sys

from .entry import main

sys.exit(main())
