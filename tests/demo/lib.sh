# shellcheck shell=bash
# What the demo's steps are made of.

namespace=matrix
steps=$(grep -c "^step " "$here/run")
number=0

step() {
	number=$((number + 1))
	printf '\n\e[1m[%2d/%d  %s]  %s\e[0m\n' "$number" "$steps" "$(clock)" "$1"
}

clock() {
	printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60))
}

note() {
	printf '  %s\n' "$1"
}

# The cluster of the tests, or the user's.
if [[ $context ]]; then
	k() { command kubectl --context "$context" "$@"; }
	helm() { command helm --kube-context "$context" "$@"; }
	: "${IMAGE_TAG:=dev}" "${IMAGE_REPOSITORY:=localhost/synapse-keeper}"
	: "${TOOLS_IMAGE_REPOSITORY:=$IMAGE_REPOSITORY-tools}"
	: "${POSTGRES_IMAGE:=postgres:17}" "${REDIS_IMAGE:=redis:7}" "${SYNAPSE_IMAGE:=matrixdotorg/synapse:v1.163.2}"
else
	k() { tests/cluster/kubectl "$@"; }
	helm() { tests/cluster/helm "$@"; }
	IMAGE_TAG=dev IMAGE_REPOSITORY=localhost/synapse-keeper TOOLS_IMAGE_REPOSITORY=localhost/synapse-keeper-tools
fi
operator_image=$IMAGE_REPOSITORY:$IMAGE_TAG
tools_image=$TOOLS_IMAGE_REPOSITORY:$IMAGE_TAG

kn() {
	k --namespace "$namespace" "$@"
}

# Pod Security admission refuses everything there that is not `restricted`.
restricted_namespace() {
	k create namespace "$1" --dry-run=client -o yaml | k apply -f -
	k label namespace "$1" --overwrite pod-security.kubernetes.io/enforce=restricted >/dev/null
}

# The manifests name the images of our own cluster; elsewhere the usual ones take their place.
with_images() {
	if [[ ! $context ]]; then
		cat
		return
	fi
	sed -e "s|image: localhost/postgres:.*|image: $POSTGRES_IMAGE|" \
		-e "s|image: localhost/redis:.*|image: $REDIS_IMAGE|" \
		-e "s|image: localhost/synapse:.*|image: $SYNAPSE_IMAGE|"
}

psql() {
	kn exec --stdin postgres-0 -- psql --quiet --no-psqlrc -U postgres -d synapse -v ON_ERROR_STOP=1 "$@"
}

wait_for_homeserver() {
	local workload
	for workload in statefulset/postgres deployment/redis statefulset/synapse-main deployment/synapse-worker; do
		kn rollout status "$workload" --timeout=5m
	done
}

stop_homeserver() {
	kn scale statefulset/synapse-main deployment/synapse-worker --replicas=0
	kn wait --for=delete pod --selector=app.kubernetes.io/name=synapse,app.kubernetes.io/instance=example --timeout=2m
}

start_homeserver() {
	kn scale statefulset/synapse-main deployment/synapse-worker --replicas=1
	wait_for_homeserver
}

# Lines such as "[ 12/400] messages": one that rewrites itself on a terminal, now and then one elsewhere. Not by awk: Debian's reads
# a pipe in blocks.
progress() {
	local line open='' lines=0
	while IFS= read -r line; do
		if [[ $line =~ ^\[\ *[0-9]+/\ *[0-9]+\] ]]; then
			if [[ -t 1 ]]; then
				printf '\r\e[K  %s' "$line"
				open=yes
			elif ((lines++ % 40 == 0)); then
				printf '  %s\n' "$line"
			fi
			continue
		fi
		printf '%s  %s\n' "${open:+$'\n'}" "$line"
		open=
	done
	printf '%s' "${open:+$'\n'}"
}

# The log of a Pod that may not have begun yet.
follow_log() {
	local try
	for try in {1..60}; do
		if kn logs --follow "$1" 2>/dev/null | progress; then
			return
		fi
		sleep 1
	done
	note "no log of $1 after $try s"
	return 1
}

# Prints a line whenever an operation moves on, until it ends.
follow() {
	local phase='' step='' before='' watch began=$SECONDS
	while IFS='|' read -r phase step; do
		if [[ "$phase|$step" != "$before" ]]; then
			before="$phase|$step"
			printf '  %4d s  %-11s %s\n' $((SECONDS - began)) "${phase:-new}" "$step"
		fi
		case $phase in
		Succeeded | Failed) break ;;
		esac
	done < <(exec timeout 1h "$here/watch" "$context" "$namespace" "$1")
	watch=$!
	kill "$watch" 2>/dev/null || true
	if [[ $phase != Succeeded ]]; then
		kn describe "$1" >&2
		return 1
	fi
}

# Restores the newest backup of a SynapseBackup into a PostgreSQL that is thrown away, and waits for the verdict.
drill() {
	local image=localhost/postgres:15 phase='' work='' before='' outcome='' began=$SECONDS
	if [[ $context ]]; then
		image=$POSTGRES_IMAGE
	fi
	kn patch "synbk/$1" --type=merge --patch "{\"spec\": {\"verify\": {\"cron\": \"@yearly\", \"image\": \"$image\", \"synapse\": true}}}"
	kn annotate "synbk/$1" --overwrite "synapse-keeper.dev/verify-now=$(date +%s)"
	while ((SECONDS - began < 600)); do
		IFS='|' read -r phase work outcome < <(kn get "synbk/$1" \
			-o jsonpath='{.status.verification.phase}{"|"}{.status.verification.step}{"|"}{.status.verification.run.outcome}{"\n"}')
		if [[ "$phase|$work" != "$before" ]]; then
			before="$phase|$work"
			printf '  %4d s  %-11s %s\n' $((SECONDS - began)) "${phase:-new}" "$work"
		fi
		case $outcome in
		Succeeded) return ;;
		Failed) break ;;
		esac
		sleep 1
	done
	kn describe "synbk/$1" >&2
	return 1
}

# A client asks for /_matrix/client/versions, ten times a second, from now on.
begin_to_ask() {
	kn create configmap demo-client --from-file="$here/client.py" --dry-run=client -o yaml | kn apply -f -
	kn delete pod/demo-client --ignore-not-found
	with_images <"$here/client.yaml" | kn apply -f -
	kn wait --for=condition=Ready pod/demo-client --timeout=1m
}

# Until now; for how long it had no answer.
stop_asking() {
	kn exec demo-client -- sh -c 'kill 1' >&2
	kn wait --for=jsonpath='{.status.phase}'=Succeeded pod/demo-client --timeout=1m >&2
	kn logs demo-client | tail -n 1
}

# One line a table: what a run would free.
show_plan() {
	local table='{range .status.plan[*]}{range .tables[*]}{.name}{"|"}{.bytes}{"|"}{.deadRows}{"|"}{.expectedGainBytes}{"|"}{.expectedSeconds}{"|"}{.skipped}{"\n"}{end}{end}'
	{
		echo 'TABLE|BYTES|DEAD ROWS|WOULD FREE|SECONDS|SKIPPED, WHY'
		kn get synmt "$1" -o jsonpath="$table"
	} | column -t -s '|' | sed -n 1,16p
	kn get synmt "$1" -o jsonpath='{range .status.plan[*]}{"\n"}{.step}: {.summary}{end}{"\n"}'
}

# After each operation the homeserver is inspected again; both times are UTC in RFC 3339, which sort as text.
wait_for_inspection_after() {
	local finished inspected try
	finished=$(kn get "$1" -o jsonpath='{.status.run.finishedAt}')
	for try in {1..60}; do
		inspected=$(kn get synapse example -o jsonpath='{.status.inspectedAt}')
		if [[ $inspected > $finished ]]; then
			return
		fi
		sleep 1
	done
	note "no inspection yet, $try s after the end: what follows has the old size"
}

# The last screen: what an admin would look at.
show_end() {
	local done='{range .status.run.steps[*]}{range .result.tables[*]}{.name}{"|"}{.bytesBefore}{"|"}{.bytesAfter}{"|"}{.rows}{"|"}{.seconds}{"\n"}{end}{end}'
	echo
	kn get synapse,synbk,synmt,synrs -o wide
	echo
	kn get events --field-selector "involvedObject.name=$1" --sort-by=.metadata.creationTimestamp \
		-o custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message
	echo
	{
		echo 'TABLE|BYTES BEFORE|BYTES AFTER|ROWS|SECONDS'
		kn get synmt "$1" -o jsonpath="$done"
	} | column -t -s '|' | sed -n 1,16p
	echo
	kn get pods
	echo
	printf 'VACUUM FULL freed           %s\n' "$(kn get synmt "$1" -o jsonpath='{.status.last.freed} ({.status.last.freedBytes} bytes)')"
	printf '  downtime, by the operator %s\n' "$(kn get synmt "$1" -o jsonpath='{.status.last.downtime}')"
	printf '  outage, by the client     %s\n' "$2"
	printf 'The restore kept            %s\n' "$(kn get synrs "$3" -o jsonpath='{.status.restored.kept}')"
	printf '  downtime, by the operator %s\n' "$(kn get synrs "$3" -o jsonpath='{.status.last.downtime}')"
	printf '  outage, by the client     %s\n' "$4"
	if [[ ! $context ]]; then
		printf '\nThe cluster stays up: tests/cluster/kubectl -n %s get synapse-keeper. make cluster-down takes it away.\n' "$namespace"
	fi
}

# What a person would look at first where a step did not work.
give_up() {
	local status=$?
	trap - ERR
	{
		printf '\nStep %d of %d failed after %s.\n\n' "$number" "$steps" "$(clock)"
		k get pods --all-namespaces || true
		kn get events --sort-by=.metadata.creationTimestamp | tail -n 15 || true
		k --namespace synapse-keeper logs deployment/synapse-keeper --tail=20 || true
	} >&2
	exit "$status"
}
set -o errtrace
trap give_up ERR
