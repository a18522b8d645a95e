"""`python -m minitron` is `minitron`."""

import sys

from minitron.cli.main import main

sys.exit(main())
