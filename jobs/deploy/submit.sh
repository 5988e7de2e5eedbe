#!/usr/bin/env bash
# Annotate on a Ray cluster that is there and has spacy-albert on every machine:
#
#   export RAY_API_SERVER_ADDRESS=http://HEAD:8265
#   jobs/deploy/submit.sh en_albert_sm s3://BUCKET/documents s3://BUCKET/annotated --keep id,text
#
# The arguments are those of `python -m spacy albert annotate`. The driver runs on the cluster, so
# this may be ended: the job goes on, and `ray job logs --follow ID` shows it again. As long as this
# runs, a driver that fails is followed by another one, which goes on where that one was; TRIES (3)
# in all.
set -euo pipefail

: "${RAY_API_SERVER_ADDRESS:?must be the address of the dashboard, such as http://HEAD:8265}"
name="annotate-$(date -u +%Y%m%d-%H%M%S)"
for ((try = 1; try <= ${TRIES:-3}; try++)); do
    id="$name-$try"
    ray job submit --submission-id "$id" -- python -m spacy albert annotate "$@" || true
    # its exit status is 0 of a job that was stopped, too
    case "$(ray job status "$id" 2>&1 || true)" in
        *"Job '$id' succeeded"*) exit 0 ;;
        *"Job '$id' failed"*) ;;
        *) echo "$id has not ended by itself: it was stopped, or the cluster cannot be reached." >&2; exit 1 ;;
    esac
done
exit 1
