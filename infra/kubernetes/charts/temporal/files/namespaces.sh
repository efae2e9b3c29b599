for entry in $NAMESPACES; do
  namespace=${entry%%=*}
  temporal operator namespace describe --namespace "$namespace" > /dev/null 2>&1 ||
    temporal operator namespace create --namespace "$namespace" --retention "${entry#*=}" ||
    temporal operator namespace describe --namespace "$namespace" > /dev/null # another run was faster
  echo "namespace $namespace is registered"
done
# The servers read the list of namespaces every few seconds: done means usable.
for entry in $NAMESPACES; do
  for _ in $(seq 30); do
    temporal workflow list --namespace "${entry%%=*}" --limit 1 > /dev/null 2>&1 && continue 2
    sleep 0.5
  done
  temporal workflow list --namespace "${entry%%=*}" --limit 1
done
