"""The feed's process, of the home in BUS_HOME: as `bus run feed`, without loading the whole command line first."""

import os

from bus import config
from bus.delivery.feed import server

os.umask(0o077)
server.run(config.load())
