"""``python -m mechinterp_runner``."""

import sys

from .server.cli import main

sys.exit(main())
