#!/usr/bin/env bash
# Filter for BasicSR's log: without its banner, the dump of the options and the networks' layers. Errors pass through.
exec awk '
    / INFO: .*(\[eta|Validation|Contact sheet|Resuming|Saving the latest|End of training|with parameters)/ { shown = 1; print substr($0, 25); fflush(); next }
    /^[0-9-]+ [0-9:,]+ INFO:/ { shown = 0; next }
    /^[0-9-]+ [0-9:,]+ (WARNING|ERROR):/ { shown = 1; print substr($0, 25); fflush(); next }
    /^(Traceback|basicsr|  File|[A-Za-z.]*Error)/ { shown = 1 }
    shown { print; fflush() }
'
