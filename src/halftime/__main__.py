"""python -m halftime"""

import sys

from .cli import main

sys.exit(main())
