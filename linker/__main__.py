"""python3 -m linker VERB: make the environment if it is not there, then hand over to linker.cli inside it.

Standard library only, and syntax that old interpreters can read, so that they can say what they lack.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

if sys.version_info < (3, 11) or sys.version_info >= (3, 13):
    sys.stderr.write(
        "error: found Python " + sys.version.split()[0] + ", needed 3.11 or 3.12: " + sys.executable + "\n"
    )
    sys.exit(3)

from linker import bootstrap

bootstrap.start(sys.argv[1:])
