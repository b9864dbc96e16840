#!/bin/bash
# Asks for every published content item through nginx, as a user does. Prints `status guid sha256-of-the-body` lines, and
# `101 websocket` when the upgrade works.
set -euo pipefail
url=http://connect.example.com
key=$(cat /root/lab/keys/admin)
api() { curl -fsS -m 20 -H "Authorization: Key $key" "$url/__api__/$1"; }
api v1/content | tr '{' '\n' | grep '"guid"' | while read -r item; do
	guid=$(sed -n 's/.*"guid":"\([^"]*\)".*/\1/p' <<<"$item")
	case $item in *'"bundle_id":null'*) continue ;; esac
	body=$(mktemp)
	status=$(curl -s -m 20 -o "$body" -w '%{http_code}' -H "Authorization: Key $key" "$url/content/$guid/")
	printf '%s %s %s\n' "$status" "$guid" "$(sha256sum <"$body" | cut -c1-16)"
	rm -f "$body"
	case $item in
	*'"app_mode":"shiny"'*)
		answer=$(curl -s -m 5 -o /dev/null -w '%{http_code}' --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
			-H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' \
			-H "Authorization: Key $key" "$url/content/$guid/websocket/" || true)
		printf '%s websocket\n' "$answer"
		;;
	esac
done | sort
