#!/bin/sh
set -eu

# `docker run redis --appendonly yes` and `docker run redis /my.conf` both mean
# the server.
case ${1:-} in
-* | *.conf) set -- redis-server "$@" ;;
esac

if [ "${1:-}" = redis-server ]; then
	# As root, own the data and go on as the user that the image is for.
	if [ "$(id -u)" = 0 ]; then
		find . \! -user redis -exec chown redis:redis '{}' +
		exec setpriv --reuid=redis --regid=redis --init-groups -- "$0" "$@"
	fi
	# Files are for the server alone unless the caller chose otherwise.
	[ "$(umask)" != 0022 ] || umask 0077
	# The original is built to answer other hosts, since only published ports
	# reach a container; Debian's waits to be told. What the caller says wins.
	config=
	case ${2:-} in
	'' | -*) ;;
	*) config=$2 ;;
	esac
	case " $* " in
	*' --protected-mode '*) ;;
	*)
		if [ -z "$config" ] || ! grep -qsiE '^[[:space:]]*protected-mode[[:space:]]' "$config"; then
			set -- "$@" --protected-mode no
		fi
		;;
	esac
fi

exec "$@"
