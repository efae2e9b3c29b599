# Starts a workflow that no worker takes, reads it and its history back, ends it.
# shellcheck disable=SC2086 # one word an entry
set -- $NAMESPACES
export TEMPORAL_NAMESPACE="${1%%=*}"
id="smoke-$HOSTNAME-$(date +%s)"
temporal workflow start --workflow-id "$id" --type Smoke --task-queue smoke --input "\"$id\"" --execution-timeout 1m > /dev/null
trap 'temporal workflow terminate --workflow-id "$id" --reason "the test is over" > /dev/null' EXIT
temporal workflow describe --workflow-id "$id" --output json > /tmp/described
grep -q WORKFLOW_EXECUTION_STATUS_RUNNING /tmp/described
temporal workflow show --workflow-id "$id" --output json > /tmp/history
grep -q EVENT_TYPE_WORKFLOW_EXECUTION_STARTED /tmp/history
# The input, as it is or in base64: an empty pattern would match whatever is there.
encoded=$(printf '"%s"' "$id" | base64 | tr -d '\n')
grep -q -e "$id" -e "${encoded:?base64 printed nothing}" /tmp/history
echo "started $id in $TEMPORAL_NAMESPACE, read it and its history back"
