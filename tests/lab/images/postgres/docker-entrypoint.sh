#!/usr/bin/env bash
# Makes a database cluster in PGDATA on the first start, from the same variables
# and files as Docker Hub's image, then becomes the server.
set -Eeo pipefail

# value NAME [DEFAULT]: $NAME, or the content of the file that $NAME_FILE names.
value() {
	local file=${1}_FILE
	if [ -n "${!1:-}" ] && [ -n "${!file:-}" ]; then
		echo "error: both $1 and $file are set" >&2
		exit 1
	fi
	if [ -n "${!1:-}" ]; then
		printf '%s' "${!1}"
	elif [ -n "${!file:-}" ]; then
		cat -- "${!file}"
	else
		printf '%s' "${2:-}"
	fi
}

make_cluster() {
	local user password database method
	user=$(value POSTGRES_USER postgres)
	password=$(value POSTGRES_PASSWORD)
	database=$(value POSTGRES_DB "$user")
	method=${POSTGRES_HOST_AUTH_METHOD:-}
	if [ -z "$password" ] && [ "$method" != trust ]; then
		cat >&2 <<-END
			Error: Database is uninitialized and superuser password is not specified.
			       You must specify POSTGRES_PASSWORD to a non-empty value for the
			       superuser. For example, "-e POSTGRES_PASSWORD=password" on "docker run".
		END
		exit 1
	fi

	# initdb asks who it runs as; a number that a pod chose has no name yet.
	if ! getent passwd "$(id -u)" >/dev/null; then
		NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
		printf 'postgres:x:%s:%s:PostgreSQL:%s:/bin/false\n' "$(id -u)" "$(id -g)" "$PGDATA" >"$NSS_WRAPPER_PASSWD"
		printf 'postgres:x:%s:\n' "$(id -g)" >"$NSS_WRAPPER_GROUP"
		LD_PRELOAD=$(find /usr/lib -name libnss_wrapper.so -print -quit)
		export LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
	fi
	eval "initdb --username=\"\$user\" --pwfile=<(printf '%s\n' \"\$password\") $POSTGRES_INITDB_ARGS ${POSTGRES_INITDB_WALDIR:+--waldir=\"\$POSTGRES_INITDB_WALDIR\"}"
	if [ -n "${NSS_WRAPPER_PASSWD:-}" ]; then
		rm -f "$NSS_WRAPPER_PASSWD" "$NSS_WRAPPER_GROUP"
		unset LD_PRELOAD NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP
	fi
	printf '\nhost all all all %s\n' "${method:-$(postgres -C password_encryption "${@:2}")}" >>"$PGDATA/pg_hba.conf"

	# A server that only this script reaches, until the databases are complete.
	PGUSER=$user pg_ctl --pgdata "$PGDATA" --wait --options "-c listen_addresses='' -p ${PGPORT:-5432}" start
	export PGPASSWORD=${PGPASSWORD:-$password}
	local -a sql=(psql -v ON_ERROR_STOP=1 --no-password --no-psqlrc --username "$user")
	if [ "$database" != postgres ]; then
		"${sql[@]}" --dbname postgres --set database="$database" <<<'CREATE DATABASE :"database";'
	fi
	sql+=(--dbname "$database")
	POSTGRES_USER=$user POSTGRES_DB=$database
	export POSTGRES_USER POSTGRES_DB
	local file
	for file in /docker-entrypoint-initdb.d/*; do
		echo "$0: $file"
		case $file in
		*.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
		*.sql) "${sql[@]}" --file "$file" ;;
		*.sql.gz) gunzip --stdout "$file" | "${sql[@]}" ;;
		*.sql.xz) xzcat "$file" | "${sql[@]}" ;;
		*.sql.zst) zstd --decompress --stdout "$file" | "${sql[@]}" ;;
		*) echo "$0: ignoring $file" ;;
		esac
	done
	pg_ctl --pgdata "$PGDATA" --mode fast --wait stop
	unset PGPASSWORD
	echo
	echo 'PostgreSQL init process complete; ready for start up.'
	echo
}

# `docker run postgres -c setting=value` means the server.
[ "${1:0:1}" != - ] || set -- postgres "$@"

if [ "$1" = postgres ]; then
	mkdir -p "$PGDATA"
	if [ "$(id -u)" = 0 ]; then
		find "$PGDATA" /var/run/postgresql \! -user postgres -exec chown postgres:postgres '{}' +
		exec setpriv --reuid=postgres --regid=postgres --init-groups -- "${BASH_SOURCE[0]}" "$@"
	fi
	# A volume that belongs to someone else may refuse, and may be fine as it is.
	chmod 0700 "$PGDATA" || :
	shopt -s nullglob
	if [ -s "$PGDATA/PG_VERSION" ]; then
		echo
		echo 'PostgreSQL Database directory appears to contain a database; Skipping initialization'
		echo
	else
		make_cluster "$@"
	fi
fi

exec "$@"
