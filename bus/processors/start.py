"""What runs when Faust asks for the app: settings from the home, and a one-line reason instead of a traceback."""

from __future__ import annotations

import faust

from bus import config, telemetry
from bus.avro.dataset import SchemaError
from bus.processors import mismatches


def app_or_exit() -> faust.App:
    """The app of the home that BUS_HOME names. Exits with status 1 and a reason in the log when there is no bus to run on."""
    try:
        return mismatches.build(config.load())
    except (config.ConfigError, SchemaError) as error:
        telemetry.configure_logging()
        telemetry.logger("processors").error("process_failed", reason=str(error))
        raise SystemExit(1) from None
