"""Filter for BasicSR's log: without its banner, the dump of the options and the networks' layers.

Progress, results, warnings, errors and tracebacks pass, line by line: ``basicsr train … 2>&1 | only_progress.py``.
"""

import re
import sys

STAMPED = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ (INFO|WARNING|ERROR): ")
SHOWN = re.compile(r"\[eta|Validation|Contact sheet|Resuming|Saving the latest|End of training|with parameters")
FAILURE = re.compile(r"^(Traceback|basicsr|  File |\w+(\.\w+)*(Error|Exception)\b)")

shown = False
for line in sys.stdin:
    stamp = STAMPED.match(line)
    if stamp:
        shown = stamp[1] != "INFO" or bool(SHOWN.search(line))
        line = line[stamp.end() :]
    elif FAILURE.match(line):
        shown = True
    if shown:
        sys.stdout.write(line)
        sys.stdout.flush()
