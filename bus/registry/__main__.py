"""The registry's process, of the home in BUS_HOME: as `bus run registry`, without loading the whole command line first."""

import os

from bus import config
from bus.registry import server

os.umask(0o077)
server.run(config.load())
