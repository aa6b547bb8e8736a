"""``python -m mechinterp_runner``."""

import sys

from .server.command_line.cli import main

sys.exit(main())
