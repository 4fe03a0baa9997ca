"""The independent checker: judges a finished run of the bus from the outside, sharing no code with what it judges.

    report = check(settings)          # reads databases and topics of a running bus at rest
    report = judge(history)           # the same judgement over a recorded or synthetic history
    assert not report.anomalies, report

It reads every database's final tables and its journal (filled by triggers, never read by the bus), every topic as super user with
read_committed, the schemas from `_schemas` and the agreements from their YAML, recomputes what must have happened, and names the
smallest witness of each kind of anomaly. Witnesses say where and which columns, never values.
"""

from tests.oracle.judge import check, judge
from tests.oracle.report import Anomaly, Report

__all__ = ["Anomaly", "Report", "check", "judge"]
